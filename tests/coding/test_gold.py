"""The commit's own plan makes the commit; a plan that names less makes less."""

from twin.coding.changed import Sides, plan_of
from twin.coding.gold import carried_out
from twin.coding.plan import Plan, without
from twin.records import FileChange

BEFORE = b"""import os

def a():
    return 1

def b():
    return 1
"""
AFTER = b"""import os
import sys

def a():
    return 2

def b():
    return 2

def c():
    return 3
"""


def side(
    path: str, before: bytes | None, after: bytes | None, status: str = "M", **how: str
) -> Sides:
    change = FileChange(path=path, status=status, **how)  # type: ignore[arg-type]
    return Sides(change=change, before=before, after=after)


FILES = [
    side("x.py", BEFORE, AFTER),
    side("new.py", None, b"def n():\n    pass\n\ndef m():\n    pass\n", "A"),
    side("gone.py", b"x = 1\n", None, "D"),
    side("moved.py", b"y = 1\n", b"y = 2\n", "R", old_path="old.py"),
    side("notes.txt", b"one\n", b"two\n"),
]


def test_the_commits_own_plan_makes_the_commit() -> None:
    assert carried_out(plan_of(FILES), FILES) == {
        "x.py": AFTER,
        "new.py": FILES[1].after,
        "gone.py": None,
        "old.py": None,
        "moved.py": b"y = 2\n",
        "notes.txt": b"two\n",
    }


def test_an_empty_plan_makes_nothing() -> None:
    assert carried_out(Plan(), FILES) == {}


def test_a_file_that_is_not_planned_stays() -> None:
    made = carried_out(without(plan_of(FILES), paths=["x.py", "gone.py"]), FILES)
    assert made.keys() == {"new.py", "old.py", "moved.py", "notes.txt"}


def test_a_definition_that_is_not_planned_stays_as_it_was() -> None:
    plan = without(plan_of(FILES), symbols=[("x.py", "b"), ("x.py", "c")])
    made = carried_out(plan, FILES)["x.py"]
    assert made is not None
    assert b"import sys" in made
    assert made.count(b"return 2") == 1
    assert b"def c" not in made


def test_of_a_new_file_the_planned_definitions_are_written() -> None:
    made = carried_out(without(plan_of(FILES), symbols=[("new.py", "m")]), FILES)["new.py"]
    assert made is not None
    assert b"def n" in made
    assert b"def m" not in made


def test_text_that_is_no_utf_8_comes_through() -> None:
    files = [side("x.py", b"# \xe9\ndef f(): pass\n", b"# \xe9\ndef f(): return b'\xff'\n")]
    assert carried_out(plan_of(files), files) == {"x.py": files[0].after}


def test_a_bracket_that_the_diff_takes_from_a_neighbour_is_not_lost() -> None:
    rest = b")\n\nB = 2\n\nC = 3\n\nD = 4\n"
    before = b"A = (\n    1\n" + rest
    after = b"A = (\n    1\n)\n\nN = (\n    2\n" + rest
    files = [side("x.py", before, after)]
    assert plan_of(files).steps[0].symbols == ("N",)
    assert carried_out(plan_of(files), files) == {"x.py": after}
