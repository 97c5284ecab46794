"""Which commits their tests could prove, told from the diff alone."""

import pytest

from twin.coding.changed import Sides
from twin.config import MineConfig
from twin.observe.provable import RULES, qualifying
from twin.records import Commit, FileChange, Label, MinedCommit

CODE = "def add(a, b):\n    return a - b\n"
MENDED = "def add(a, b):\n    return a + b\n"
TEST = "def test_add():\n    assert add(1, 2) == 3\n"


def why(
    source: tuple[str | None, str | None] = (CODE, MENDED),
    tests: tuple[str | None, str | None] = ("", TEST),
    *,
    labels: tuple[str, ...] = (),
    num_parents: int = 1,
    source_path: str = "src/calc.py",
    test_path: str = "tests/test_calc.py",
) -> str:
    """The rule that removes a commit with these two files; empty where it qualifies."""
    sides = [_side(source_path, *source), _side(test_path, *tests)]
    mined = MinedCommit(
        commit=Commit(
            commit_id="c" * 40, parent_ids=("p" * 40,) * num_parents, author_name="A",
            author_email="a@example.org", author_time=0, commit_time=0, subject="s", body="",
        ),
        num_source_files=1, num_test_files=int(tests != (None, None)), num_source_lines=1,
        message_score=1.0, labels=tuple(Label(name=name, reason="") for name in labels),
    )  # fmt: skip
    kept, rows = qualifying([mined], MineConfig(), lambda commit: sides)
    assert [row.rule for row in rows[-len(RULES) :]] == list(RULES)
    assert rows[-1].remaining == len(kept)
    return next((row.rule for row in rows if row.removed), "")


def _side(path: str, before: str | None, after: str | None) -> Sides:
    return Sides(
        change=FileChange(path=path, status="M"),
        before=None if before is None else before.encode(),
        after=None if after is None else after.encode(),
    )


def test_a_change_of_code_with_a_new_test_qualifies() -> None:
    assert why() == ""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (CODE, CODE + "# why\n"),
        (CODE, CODE.replace(":\n", ":\n    'Adds.'\n")),
        (CODE, CODE.replace("a, b", "a: int, b: int").replace(":\n", " -> int:\n")),
        (CODE, CODE.replace("a - b", "(\n        a - b\n    )")),
        (CODE, "from __future__ import annotations\n" + CODE),
        (CODE, "if TYPE_CHECKING:\n    from x import Y\n" + CODE),
        ("class A:\n    'Doc.'\n", "class A: ...\n"),
        (None, "# nothing yet\n"),
    ],
)
def test_text_that_no_program_sees_is_no_change_of_code(before: str | None, after: str) -> None:
    assert why(source=(before, after)) == "no_code_change"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("class A:\n    x: int\n", "class A:\n    x: str\n"),
        (CODE, "import os\n" + CODE),
        (CODE, None),
        (None, CODE),
        ("print 1", "print 2"),
        (CODE, "x = " + "(" * 500),
    ],
)
def test_what_a_program_could_see_is_a_change_of_code(
    before: str | None, after: str | None
) -> None:
    assert why(source=(before, after)) == ""


def test_a_stub_for_type_checkers_is_no_code_and_another_language_counts_as_it_is() -> None:
    assert why(source_path="src/calc.pyi") == "no_code_change"
    assert why(source=("a", "b"), source_path="src/calc.c") == ""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (TEST, None),
        (TEST + "\ndef test_b():\n    pass\n", TEST),
        ("import os\n" + TEST, "import re\n" + TEST),
        (TEST, TEST.replace("add(1, 2)", "add(\n        1, 2\n    )") + "# noqa\n"),
    ],
)
def test_a_test_that_is_only_taken_away_or_put_into_another_form_proves_nothing(
    before: str, after: str | None
) -> None:
    assert why(tests=(before, after)) == "no_test_added"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (TEST, TEST.replace("3", "4")),
        (TEST, "@slow\n" + TEST),
        (TEST, TEST.replace("def test_add()", "def test_add(x: int)")),
        (TEST, "x ="),
    ],
)
def test_another_expectation_is_a_change_of_a_test(before: str, after: str) -> None:
    assert why(tests=(before, after)) == ""


def test_data_that_tests_read_counts_as_it_is() -> None:
    assert why(tests=("a", "b"), test_path="tests/data/case.txt") == ""


def test_what_sets_nobody_a_task_is_removed_by_its_message() -> None:
    assert why(labels=("fix", "bump")) == "chore"


def test_merges_and_commits_without_tests_are_removed_before_a_file_is_read() -> None:
    assert why(num_parents=2) == "no_parent"
    assert why(tests=(None, None)) == "no_tests"
