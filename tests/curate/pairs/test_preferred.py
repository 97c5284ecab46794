"""A failure teaches about plans only where its plan is at fault, and about edits only where another
passed with the same plan."""

from typing import NoReturn

import pytest
from tests.curate.pairs.conftest import AFTER, BEFORE, MakeFacts, tried

from twin.coding.edits import apply, read_blocks
from twin.coding.plan import Plan, Step, read_plan
from twin.curate.pairs.facts import TriedPlan
from twin.curate.pairs.making import Made, made_of
from twin.errors import StoreCorrupt
from twin.records import Pair

GOOD = Plan(steps=(Step(path="calc/core.py", symbols=("Calc.add",)),))
BAD = Plan(steps=(Step(path="calc/base.py", symbols=("Base",)),))
OTHER = Plan(steps=(Step(path="calc/core.py", symbols=("Calc.add", "Calc")),))
DONE = {"calc/core.py": str(AFTER["calc/core.py"]).encode()}
PASSED = tried(GOOD, solved=True, alignment=1.0, edits=DONE)


def preferences(
    make_facts: MakeFacts, *trials: TriedPlan, **more: object
) -> tuple[list[Pair], Made]:
    made = made_of(make_facts(trials=trials, **more), max_tokens=32_000)
    return [pair for pair in made.pairs if pair.kind == "preference"], made


def test_a_plan_that_fits_less_and_failed_is_the_worse_one(make_facts: MakeFacts) -> None:
    failed = tried(BAD, solved=False, alignment=0.1, campaign="b", number=2)
    (pair,), made = preferences(make_facts, failed, PASSED)
    assert pair.stage == "plan"
    assert read_plan(pair.completion) == GOOD
    assert read_plan(pair.rejected) == BAD
    assert (pair.origin.source, pair.origin.campaign, pair.origin.trial) == ("trial", "b", 2)
    assert made.left_out == {}


def test_a_plan_as_good_as_the_one_that_passed_is_never_the_worse_one(
    make_facts: MakeFacts,
) -> None:
    for alignment in (0.96, 1.0, 1.1):
        failed = tried(OTHER, solved=False, alignment=alignment)
        found, made = preferences(make_facts, PASSED, failed)
        assert not found
        assert made.left_out == {"preference: no_plan_fault": 1}


def test_with_the_same_plan_the_edits_are_compared(make_facts: MakeFacts) -> None:
    core = str(BEFORE["calc/core.py"])
    wrong = core.replace("checked(a) - b", "checked(a) * b")
    failed = tried(GOOD, solved=False, alignment=1.0, edits={"calc/core.py": wrong.encode()})
    (pair,), _ = preferences(make_facts, PASSED, failed)
    assert pair.stage == "edit"
    assert apply(core, read_blocks(pair.completion)) == AFTER["calc/core.py"]
    assert apply(core, read_blocks(pair.rejected)) == wrong


@pytest.mark.parametrize(
    ("edits", "why"),
    [
        (DONE, "same_edits"),
        ({}, "edits_not_comparable"),
        ({"calc/core.py": b"\xff"}, "edits_not_comparable"),
    ],
)
def test_edits_that_say_nothing_are_counted(
    make_facts: MakeFacts, edits: dict[str, bytes], why: str
) -> None:
    failed = tried(GOOD, solved=False, alignment=1.0, edits=edits)
    found, made = preferences(make_facts, PASSED, failed)
    assert not found
    assert made.left_out[f"preference: {why}"] == 1


def test_an_artefact_that_is_gone_costs_its_own_pair_alone(make_facts: MakeFacts) -> None:
    def gone() -> NoReturn:
        raise StoreCorrupt("The artefact is missing.")

    failed = tried(GOOD, solved=False, alignment=1.0, edits=gone)
    found, made = preferences(make_facts, PASSED, failed)
    assert not found
    assert made.left_out == {"preference: artifact_damaged": 1}
    assert made.pairs


def test_trials_of_another_question_and_those_without_a_plan_are_no_answers(
    make_facts: MakeFacts,
) -> None:
    elsewhere = tried(BAD, solved=False, alignment=0.1, context_id="other")
    found, made = preferences(make_facts, PASSED, elsewhere, mute_trials={"bad_plan": 2})
    assert not found
    assert made.left_out == {"preference: other_context": 1, "preference: bad_plan": 2}


def test_the_same_failure_counts_once_and_needs_one_that_passed(make_facts: MakeFacts) -> None:
    failed = tried(BAD, solved=False, alignment=0.1)
    found, made = preferences(make_facts, PASSED, failed, failed)
    assert len(found) == 1
    assert made.left_out == {"preference: same_failure": 1}
    found, made = preferences(make_facts, failed)
    assert not found
    assert made.left_out == {"preference: none_passed": 1}
