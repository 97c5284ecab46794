"""The true plan scores 1, an empty one 0, and no plan gains by losing a target."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.coding.alignment import Target, alignment, weighted_f1
from twin.coding.plan import Plan, Step, without

TRUTH = Plan(
    steps=(
        Step(path="base.py", symbols=("Base", "Base.run")),
        Step(path="app.py", symbols=("main",), depends_on=("base.py",)),
        Step(path="notes.txt"),
    )
)


def score(plan: Plan, truth: Plan = TRUTH) -> float:
    return alignment(plan, truth).score


def test_the_true_plan_scores_one_and_an_empty_one_nothing() -> None:
    assert score(TRUTH) == pytest.approx(1)
    assert score(Plan()) == 0
    assert score(Plan(), Plan()) == 0


def test_the_wrong_files_score_nothing() -> None:
    assert score(Plan(steps=(Step(path="other.py", symbols=("main",)),))) == 0


def test_more_than_was_changed_costs_something() -> None:
    assert 0.8 < score(Plan(steps=(*TRUTH.steps, Step(path="extra.py")))) < 1


def test_the_wrong_order_costs_its_share() -> None:
    turned = Plan(
        steps=(
            Step(path="app.py", symbols=("main",)),
            Step(path="base.py", symbols=("Base", "Base.run"), depends_on=("app.py",)),
            Step(path="notes.txt"),
        )
    )
    assert alignment(turned, TRUTH).order == 0
    assert score(turned) == pytest.approx(0.85)


NAMES = st.sampled_from("abcdef")
STEPS = st.dictionaries(NAMES, st.frozensets(NAMES, max_size=3), max_size=5)


@given(STEPS, st.data())
def test_losing_a_target_never_helps(steps: dict[str, frozenset[str]], data: st.DataObject) -> None:
    paths = sorted(steps)
    truth = Plan(
        steps=tuple(
            Step(path=path, symbols=tuple(sorted(steps[path])), depends_on=tuple(paths[:at]))
            for at, path in enumerate(paths)
        )
    )
    plan, last = truth, score(truth, truth)
    for path in data.draw(st.permutations(paths)):
        for name in sorted(steps[path]):
            plan = without(plan, symbols=[(path, name)])
            assert score(plan, truth) <= last + 1e-12
            last = score(plan, truth)
        plan = without(plan, paths=[path])
        assert score(plan, truth) <= last + 1e-12
        last = score(plan, truth)
    assert last == 0


def test_what_no_test_can_see_weighs_little_but_is_part_of_the_whole() -> None:
    truth = Plan(steps=(Step(path="a.py", symbols=("f",)), Step(path="docs/a.md")))
    without_documents, without_code = (without(truth, paths=[p]) for p in ("docs/a.md", "a.py"))
    assert 0.95 < score(without_documents, truth) < 1
    assert 0 < score(without_code, truth) < 0.15


def targets(*paths: str) -> set[Target]:
    return {(path, "") for path in paths}


def test_f1_is_between_precision_and_recall() -> None:
    assert weighted_f1(targets("a.py", "b.py"), targets("b.py", "c.py", "d.py")) == pytest.approx(
        0.4
    )
    assert weighted_f1(set(), targets("a.py")) == weighted_f1(targets("a.py"), set()) == 0
