"""What a commit teaches at each stage; and nothing of it stands in a question."""

import json
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.curate.pairs.conftest import AFTER, BEFORE, MakeFacts

from twin.coding.edits import apply, read_blocks
from twin.coding.plan import read_plan
from twin.curate.pairs.facts import PlantedFault
from twin.curate.pairs.making import MAKERS, Made, made_of
from twin.records import Mutant, Pair, PairKind, Validation

LIMIT = 32_000


def of(made: Made, kind: PairKind) -> list[Pair]:
    return [pair for pair in made.pairs if pair.kind == kind]


def answer(made: Made, kind: PairKind) -> object:
    (pair,) = of(made, kind)
    return json.loads(pair.completion)


def test_a_commit_gives_a_pair_of_each_kind_with_where_it_is_from(make_facts: MakeFacts) -> None:
    made = made_of(make_facts(), max_tokens=LIMIT)
    assert {pair.kind for pair in made.pairs} == set(dict(MAKERS)) - {"preference"}
    assert made.left_out == {}
    for pair in made.pairs:
        assert [message.role for message in pair.prompt] == ["system", "user"]
        assert pair.task == "Add in add"
        assert "Add in add" in pair.prompt[1].content
        assert pair.origin.commit_id == "c" * 40
        assert pair.origin.parent_id == "d" * 40
        assert (pair.origin.validity, pair.origin.source) == ("valid", "commit")
        assert pair.num_tokens > len(pair.prompt[1].content) / 3.5


def test_scope_answers_with_the_changed_files_among_those_that_were_found(
    make_facts: MakeFacts,
) -> None:
    made = made_of(make_facts(), max_tokens=LIMIT)
    assert answer(made, "scope") == {"files": ["calc/core.py"]}  # what is new cannot be found
    assert "- calc/base.py\n- calc/core.py" in of(made, "scope")[0].prompt[1].content


def test_scope_asks_for_nothing_that_the_question_does_not_show(make_facts: MakeFacts) -> None:
    made = made_of(make_facts(candidates=["calc/base.py"]), max_tokens=LIMIT)
    assert not of(made, "scope")
    assert made.left_out == {"scope: not_retrieved": 1}
    after = {**AFTER, "calc/base.py": "class Base:\n    x = 1\n"}
    made = made_of(make_facts(after=after, candidates=["calc/base.py"]), max_tokens=LIMIT)
    assert answer(made, "scope") == {"files": ["calc/base.py"]}
    assert made.left_out == {"scope: file_not_retrieved": 1}
    made = made_of(make_facts(before={}, candidates=[]), max_tokens=LIMIT)
    assert made.left_out["scope: nothing_existed"] == 1


def test_precision_gives_every_symbol_that_was_there_its_tier(make_facts: MakeFacts) -> None:
    made = made_of(make_facts(), max_tokens=LIMIT)
    assert answer(made, "precision") == {
        "calc/core.py": {
            "primary": ["Calc.add"],
            "supporting": ["checked"],
            "type context": ["Calc"],
        }
    }
    shown = of(made, "precision")[0].prompt[1].content
    assert "- other: def other()" in shown


def test_a_change_outside_of_every_symbol_has_no_precision(make_facts: MakeFacts) -> None:
    after = {**BEFORE, "calc/base.py": "import os\n" + str(BEFORE["calc/base.py"])}
    made = made_of(make_facts(after=after), max_tokens=LIMIT)
    assert made.left_out["precision: no_symbol_changed"] == 1


def test_plans_are_what_the_commit_did(make_facts: MakeFacts) -> None:
    before = {**BEFORE, "NEWS.md": "old\n"}
    after = {**AFTER, "NEWS.md": "new\n"}
    made = made_of(make_facts(before=before, after=after), max_tokens=LIMIT)
    assert answer(made, "meta_plan") == {
        "parts": [
            {"number": 1, "paths": ["calc/core.py"]},
            {"number": 2, "paths": ["calc/late.py"]},
            {"number": 3, "paths": ["NEWS.md"]},
        ]
    }
    first, second = (read_plan(pair.completion) for pair in of(made, "step_plan"))
    assert [(step.path, step.symbols) for step in first.steps] == [("calc/core.py", ("Calc.add",))]
    assert [(step.path, step.action) for step in second.steps] == [("calc/late.py", "add")]
    assert made.left_out["step_plan: no_code"] == 1


def test_the_test_plan_is_what_the_runs_showed(make_facts: MakeFacts) -> None:
    made = made_of(make_facts(), max_tokens=LIMIT)
    assert answer(made, "test_plan") == {
        "tests": [{"path": "tests/test_core.py", "action": "modify", "proves": ["test_add"]}]
    }
    assert "- tests/test_core.py" in of(made, "test_plan")[0].prompt[1].content


def test_a_commit_that_nobody_ran_teaches_all_but_its_proof(make_facts: MakeFacts) -> None:
    made = made_of(make_facts(validation=None), max_tokens=LIMIT)
    assert {pair.origin.validity for pair in made.pairs} == {"unvalidated"}
    assert made.left_out == {"test_plan: unvalidated": 1}
    facts = make_facts()
    assert facts.validation is not None
    guarded = replace(facts.validation, why="nothing_fails", classes={})
    made = made_of(replace(facts, validation=guarded), max_tokens=LIMIT)
    assert {pair.origin.validity for pair in made.pairs} == {"nothing_fails"}
    assert made.left_out == {"test_plan: nothing_proves": 1}


def test_edits_make_the_commit_of_its_parent(make_facts: MakeFacts) -> None:
    made = made_of(make_facts(), max_tokens=LIMIT)
    changed, added = of(made, "edit")
    core = str(BEFORE["calc/core.py"])
    assert apply(core, read_blocks(changed.completion)) == AFTER["calc/core.py"]
    assert core in changed.prompt[1].content
    assert apply("", read_blocks(added.completion)) == AFTER["calc/late.py"]
    assert "It is not there yet." in added.prompt[1].content


def planted(whole: str, faulty: str, num_failing: int = 1) -> PlantedFault:
    failing = [f"tests/test_core.py::test_{number:02}" for number in range(num_failing)]
    proof = Validation(
        commit_id="c" * 40, parent_id="", why="", classes=dict.fromkeys(failing, "fail_to_pass")
    )
    mutant = Mutant(
        commit_id="c" * 40, environment="e", path="calc/core.py", line=3, symbol="Calc.add",
        operator="arithmetic", before="+", after="-", artifact="f" * 64, why="", proof=proof,
    )  # fmt: skip
    return PlantedFault(mutant=mutant, faulty=faulty.encode(), whole=whole.encode())


def test_a_planted_fault_is_mended_by_the_file_as_it_was(make_facts: MakeFacts) -> None:
    whole, faulty = str(AFTER["calc/core.py"]), str(BEFORE["calc/core.py"])
    facts = make_facts(faults=[planted(whole, faulty)])
    *_, pair = of(made_of(facts, max_tokens=LIMIT), "edit")
    assert apply(faulty, read_blocks(pair.completion)) == whole
    assert faulty in pair.prompt[1].content
    assert pair.task == "Make these tests pass again:\n- tests/test_core.py::test_00"
    assert '"symbols": ["Calc.add"]' in pair.prompt[1].content
    assert (pair.origin.source, pair.origin.validity) == ("generated", "valid")


def test_the_tests_that_a_fault_breaks_are_named_as_far_as_one_reads(make_facts: MakeFacts) -> None:
    whole, faulty = str(AFTER["calc/core.py"]), str(BEFORE["calc/core.py"])
    facts = make_facts(faults=[planted(whole, faulty, num_failing=12), planted(whole, whole)])
    made = made_of(facts, max_tokens=LIMIT)
    *_, pair = of(made, "edit")
    assert "test_09\n- and 2 more" in pair.task
    assert made.left_out["edit: no_edit"] == 1


@given(before=st.text(max_size=80), after=st.text(max_size=80))
def test_whatever_a_file_holds_its_edits_are_exact(
    make_facts: MakeFacts, before: str, after: str
) -> None:
    facts = make_facts({"a.py": before}, {"a.py": after})
    for pair in of(made_of(facts, max_tokens=LIMIT), "edit"):
        assert apply(before, read_blocks(pair.completion)) == after


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (b"a = '\xff'\n", b"a = 1\n", "no_text"),
        (b"a = 1\n", b"a\0\n", "no_text"),
        (b"a = 1\n", b"x = 1  # " + b"a" * 200_000, "no_text"),
    ],
)
def test_what_is_no_text_of_a_sane_size_is_not_edited(
    make_facts: MakeFacts, before: bytes, after: bytes, why: str
) -> None:
    made = made_of(make_facts({"a.py": before}, {"a.py": after}), max_tokens=LIMIT)
    assert made.left_out[f"edit: {why}"] == 1


def test_a_file_that_could_not_be_read_is_not_taken_for_an_empty_one(
    make_facts: MakeFacts,
) -> None:
    facts = make_facts({"a.py": "a = 1\n"}, {"a.py": "a = 2\n"})
    unread = [replace(side, before=None) for side in facts.sides]
    made = made_of(replace(facts, sides=unread), max_tokens=LIMIT)
    assert made.left_out["edit: unread"] == 1
    assert not of(made, "edit")


def test_deleted_files_documents_and_machine_written_ones_are_not_edited(
    make_facts: MakeFacts,
) -> None:
    before = {"a.py": "a\n", "NEWS.md": "a\n", "vendor/v.py": "a\n", "b.py": "b\n"}
    after = {"NEWS.md": "b\n", "vendor/v.py": "b\n", "b.py": "c\n"}
    made = made_of(make_facts(before, after), max_tokens=LIMIT)
    assert len(of(made, "edit")) == 1
    assert made.left_out["edit: no_code"] == 2
    assert made.left_out["edit: deleted"] == 1


def test_pairs_that_are_too_long_are_counted(make_facts: MakeFacts) -> None:
    made = made_of(make_facts(), max_tokens=50)
    assert made.pairs == ()
    assert made.left_out["edit: too_long"] == 2


def test_nothing_of_the_commit_stands_in_a_question(make_facts: MakeFacts) -> None:
    for pair in made_of(make_facts(), max_tokens=LIMIT).pairs:
        shown = " ".join(message.content for message in pair.prompt)
        assert "SENTINEL" not in shown
        assert "test_add" not in shown
        assert "checked(a) + b" not in shown
        if pair.kind in ("scope", "precision", "meta_plan"):  # the others follow on a plan
            assert "late.py" not in shown


def test_texts_that_utf_8_cannot_hold_are_made_so(make_facts: MakeFacts) -> None:
    made = made_of(make_facts(task="Add \udcff in add"), max_tokens=LIMIT)
    assert all("�" in pair.task for pair in made.pairs)
    assert msgspec.json.encode(made.pairs)
