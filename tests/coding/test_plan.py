"""A plan is read with care, and its steps have an order."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.coding.plan import Plan, Step, read_plan, without
from twin.errors import BadPlan


def written(*steps: dict[str, object]) -> str:
    return json.dumps({"steps": steps})


def test_a_plan_is_read_with_its_defaults() -> None:
    plan = read_plan(written({"path": "a.py", "symbols": ["f"]}, {"path": "b.py", "action": "add"}))
    assert plan.steps == (
        Step(path="a.py", action="modify", symbols=("f",)),
        Step(path="b.py", action="add"),
    )
    assert read_plan("{}") == Plan()


def test_steps_come_after_what_they_depend_on_and_otherwise_as_written() -> None:
    plan = read_plan(
        written(
            {"path": "c", "depends_on": ["a", "b"]}, {"path": "b"}, {"path": "a"}, {"path": "d"}
        )
    )
    assert [step.path for step in plan.ordered()] == ["b", "a", "d", "c"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not the JSON"),
        ("[]", "not the JSON"),
        ('{"steps": [{"path": "a", "code": "x"}]}', "code"),
        ('{"steps": [{"path": "a", "action": "explode"}]}', "action"),
        ('{"steps": [{}]}', "path"),
        (written({"path": "/etc/passwd"}), "relative"),
        (written({"path": "a/../../b"}), "plainly"),
        (written({"path": ".git/hooks/x"}), "git's own"),
        (written({"path": ""}), "relative"),
        (written({"path": "a", "old_path": "../b"}), "plainly"),
        (written({"path": "a"}, {"path": "a"}), "two steps for a"),
        (written({"path": "a", "depends_on": ["b"]}), "no step"),
        (
            written({"path": "a", "depends_on": ["b"]}, {"path": "b", "depends_on": ["a"]}),
            "a -> b|b -> a",
        ),
        (written({"path": "a", "depends_on": ["a"]}), "wait for each other"),
        (written(*({"path": f"f{n}"} for n in range(501))), "more than 500 steps"),
        (" " * 1_000_001, "longer than"),
        ("[" * 100_000, "not the JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(BadPlan, match=said):
        read_plan(text)


@given(st.binary() | st.text())
def test_whatever_arrives_is_a_plan_or_a_sentence(data: str | bytes) -> None:
    with suppress(BadPlan):
        assert isinstance(read_plan(data), Plan)


def test_targets_can_be_left_out() -> None:
    plan = Plan(
        steps=(
            Step(path="a", symbols=("f", "g")),
            Step(path="b", depends_on=("a",), symbols=("f",)),
        )
    )
    assert without(plan, paths=["a"]).steps == (Step(path="b", symbols=("f",)),)
    assert without(plan, symbols=[("a", "f")]).steps[0].symbols == ("g",)
