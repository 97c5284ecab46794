"""A commit is valid where its tests prove it, and a planted trap proves nothing."""

from collections.abc import Callable

import pytest
from tests.coding.conftest import World

from twin.coding.sandbox.limits import Limits
from twin.coding.testing.hearing import Patience
from twin.coding.testing.results import Selection, TestRun
from twin.coding.testing.session import TestSession
from twin.coding.testing.trees import Tree
from twin.observe import validate
from twin.records import Validation

Validate = Callable[..., Validation]

BEFORE = "def add(a, b):\n    return a - b\n"
AFTER = "def add(a, b):\n    return a + b\n"
OLD_TEST = "from calc import add\n\ndef test_zero():\n    assert add(1, 0) == 1\n"
NEW_TEST = OLD_TEST + "\ndef test_sum():\n    assert add(1, 2) == 3\n"


def grow(world: World, *commits: dict[str, str | None]) -> None:
    world.grow(*((f"commit {number}", files) for number, files in enumerate(commits)))


def test_a_commit_whose_test_fails_before_and_passes_after_is_valid(
    world: World, validated: Validate
) -> None:
    grow(
        world,
        {"calc.py": BEFORE, "tests/test_calc.py": OLD_TEST, "tests/test_other.py": "assert 0"},
        {"calc.py": AFTER, "tests/test_calc.py": NEW_TEST},
    )
    found = validated()
    assert found.is_valid
    assert found.classes == {
        "tests/test_calc.py::test_zero": "pass_to_pass",
        "tests/test_calc.py::test_sum": "fail_to_pass",
    }
    assert found.selection == ("tests/test_calc.py",)
    assert found.tests("fail_to_pass") == ["tests/test_calc.py::test_sum"]
    assert found.level is not None
    assert found.num_runs == 4  # before and after, twice: nothing was missing before


def test_a_commit_without_tests_is_not_run(world: World, validated: Validate) -> None:
    grow(world, {"calc.py": BEFORE}, {"calc.py": AFTER})
    found = validated()
    assert (found.why, found.num_runs, found.level) == ("no_tests", 0, None)


def test_a_first_commit_has_nothing_before(world: World, validated: Validate) -> None:
    grow(world, {"calc.py": AFTER, "test_calc.py": NEW_TEST})
    assert validated().why == "no_parent"


def test_tests_that_pass_on_both_sides_guard_and_prove_nothing(
    world: World, validated: Validate
) -> None:
    grow(
        world,
        {"calc.py": AFTER, "test_calc.py": OLD_TEST},
        {"calc.py": AFTER + "\n", "test_calc.py": NEW_TEST},
    )
    found = validated()
    assert found.why == "nothing_fails"
    assert found.tests("guard") == ["test_calc.py::test_sum"]
    assert found.num_runs == 2  # it need not be repeated


@pytest.mark.slow
def test_a_commit_that_mends_what_never_ended_is_not_waited_for(
    world: World, validated: Validate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tests end within moments after it: that they do not before is soon clear."""
    monkeypatch.setattr(validate, "LONG_S", 1.0)
    asked: list[float] = []
    run = TestSession.run

    def noted(self: TestSession, tree: Tree, selection: Selection) -> TestRun:
        asked.append(selection.test_s)
        return run(self, tree, selection)

    monkeypatch.setattr(TestSession, "run", noted)
    endless = "def add(a, b):\n    while b > 1: pass\n    return a + b\n"
    grow(world, {"calc.py": endless}, {"calc.py": AFTER, "test_calc.py": NEW_TEST})
    assert validated().tests("fail_to_pass") == ["test_calc.py::test_sum"]
    assert asked == [float("inf"), 1.0, 1.0, 1.0]  # after, before, and again


def test_a_commit_whose_tests_fail_after_it_is_not_valid(world: World, validated: Validate) -> None:
    grow(world, {"calc.py": BEFORE}, {"calc.py": BEFORE + "#\n", "test_calc.py": NEW_TEST[-60:]})
    assert validated().why in ("nothing_passes", "nothing_runs")


def test_tests_that_cannot_be_collected_after_it_say_so(world: World, validated: Validate) -> None:
    grow(world, {"calc.py": BEFORE}, {"calc.py": AFTER, "test_calc.py": "import nowhere"})
    found = validated()
    assert found.why == "nothing_runs"
    assert "nowhere" in found.detail


@pytest.mark.slow
def test_moved_and_deleted_tests_leave_their_old_place(world: World, validated: Validate) -> None:
    grow(
        world,
        {"calc.py": BEFORE, "tests/test_old.py": OLD_TEST, "tests/test_gone.py": OLD_TEST},
        {
            "calc.py": AFTER,
            "tests/test_old.py -> tests/test_new.py": NEW_TEST,
            "tests/test_gone.py": None,
        },
    )
    found = validated(breadth="full")
    assert found.is_valid
    assert {test.partition("::")[0] for test in found.classes} == {"tests/test_new.py"}


@pytest.mark.slow
def test_changed_test_data_and_conftest_belong_to_the_tests(
    world: World, validated: Validate
) -> None:
    test = """
from pathlib import Path
from calc import add
def test_data(two): assert add(1, two) == int(Path(__file__).with_name("sum.txt").read_text())
"""
    conftest = "import pytest\n@pytest.fixture\ndef two(): return 2\n"
    grow(
        world,
        {"calc.py": BEFORE, "tests/test_a.py": "def test_data(): pass"},
        {
            "calc.py": AFTER,
            "tests/test_a.py": test,
            "tests/sum.txt": "3",
            "tests/conftest.py": conftest,
        },
    )
    assert validated().tests("fail_to_pass") == ["tests/test_a.py::test_data"]


# --- planted: none of these may count as failing before and passing after


def no_false_proof(found: Validation, *innocent: str) -> None:
    proving = {test.partition("::")[2] for test in found.tests("fail_to_pass")}
    assert not proving & set(innocent)


CASES = """
from pathlib import Path
import pytest
from calc import add
FILES = sorted(Path(__file__).with_name("cases").iterdir())
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_case(path):
    *numbers, total = map(int, path.read_text().split())
    assert add(*numbers) == total
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", ["tests/cases/two.txt", "tests/cases/three.txt"])
def test_where_data_alone_changed_the_tests_that_are_named_after_it_are_the_proof(
    world: World, validated: Validate, case: str
) -> None:
    cases: dict[str, str | None] = {"tests/cases/one.txt": "1 0 1", "tests/cases/two.txt": "2 0 2"}
    tests = {"tests/test_cases.py": CASES, "tests/test_more.py": "def test_two_more(): pass"}
    grow(world, {"calc.py": BEFORE, **tests, **cases}, {"calc.py": AFTER, case: "1 2 3"})
    found = validated()
    name = case.rpartition("/")[2].removesuffix(".txt")
    assert found.classes == {f"tests/test_cases.py::test_case[{name}]": "fail_to_pass"}
    assert len(validated(breadth="full").classes) == 3 + (name == "three")


@pytest.mark.slow
def test_where_no_test_is_named_after_the_data_the_whole_suite_is_run(
    world: World, validated: Validate
) -> None:
    test = CASES.replace("path.stem", "str(len(path.name))")
    grow(
        world,
        {"calc.py": BEFORE, "tests/test_cases.py": test, "tests/cases/one.txt": "1 0 1"},
        {"calc.py": AFTER, "tests/cases/three.txt": "1 2 3"},
    )
    assert validated().classes == {
        "tests/test_cases.py::test_case[7]": "pass_to_pass",
        "tests/test_cases.py::test_case[9]": "fail_to_pass",
    }


@pytest.mark.slow
def test_planted_a_crash_on_the_parent(world: World, validated: Validate) -> None:
    """Infinite recursion in C ends the parent's process: every test after it was still innocent."""
    crash = "import ctypes\ndef add(a, b):\n    return ctypes.string_at(0)\n"
    tests = """
from calc import add
def test_a(): pass
def test_sum(): assert add(1, 2) == 3
def test_b(): pass
def test_c(): pass
"""
    grow(
        world,
        {"calc.py": crash, "test_calc.py": "def test_a(): pass\ndef test_b(): pass\n"},
        {"calc.py": AFTER, "test_calc.py": tests},
    )
    found = validated()
    no_false_proof(found, "test_a", "test_b", "test_c")
    assert found.tests("fail_to_pass") == ["test_calc.py::test_sum"]
    assert found.tests("guard") == ["test_calc.py::test_c"]


def test_planted_an_import_error_on_the_parent(world: World, validated: Validate) -> None:
    """The changed file imports a name that the parent lacks: its old tests were passing there."""
    new = "from calc import add, twice\n" + NEW_TEST + "\ndef test_twice(): assert twice(2) == 4\n"
    grow(
        world,
        {"calc.py": AFTER, "test_calc.py": NEW_TEST},
        {"calc.py": AFTER + "def twice(a):\n    return 2 * a\n", "test_calc.py": new},
    )
    found = validated()
    no_false_proof(found, "test_zero", "test_sum")
    assert found.tests("fail_to_pass") == ["test_calc.py::test_twice"]


def test_planted_tests_that_depend_on_their_order(world: World, validated: Validate) -> None:
    """`test_follower` passes only after `test_leader`, which the commit mends."""
    tests = """
from calc import add
seen = []
def test_leader():
    assert add(1, 2) == 3
    seen.append(1)
def test_follower(): assert seen
"""
    grow(world, {"calc.py": BEFORE}, {"calc.py": AFTER, "test_calc.py": tests})
    found = validated()
    no_false_proof(found, "test_follower")
    assert found.tests("fail_to_pass") == ["test_calc.py::test_leader"]
    assert found.tests("flaky") == ["test_calc.py::test_follower"]


def test_planted_a_test_that_crashes_in_company_alone(world: World, validated: Validate) -> None:
    """Before the commit one test leaves something behind of which another dies."""
    leaves = "seen = []\ndef add(a, b):\n    seen.append(a)\n    return a + b\n"
    tests = """
import os, calc
def test_sum(): assert calc.add(1, 2) == 3
def test_victim():
    if calc.seen: os._exit(1)
"""
    clean = leaves.replace("seen.append(a)", "pass")
    grow(world, {"calc.py": leaves}, {"calc.py": clean, "test_calc.py": tests})
    found = validated()
    assert found.why == "flaky_only"
    assert found.tests("flaky") == ["test_calc.py::test_victim"]


NAMED_ANEW = """
import pytest, random, time
from calc import add
class A: pass
@pytest.mark.parametrize("x", [A()], ids=repr)
def test_address(x): assert add(1, 2) == 3
@pytest.mark.parametrize("x", [random.random()])
def test_random(x): assert add(1, 2) == 3
@pytest.mark.parametrize("x", [time.time()])
def test_time(x): assert add(1, 2) == 3
"""


def test_planted_names_that_are_new_each_time(world: World, validated: Validate) -> None:
    """What passes on both sides under two names has not failed before."""
    grow(
        world,
        {"calc.py": AFTER, "test_calc.py": NAMED_ANEW},
        {"calc.py": AFTER + "# the sum\n", "test_calc.py": NAMED_ANEW + "# of two\n"},
    )
    found = validated()
    assert found.why == "flaky_only"
    assert len(found.tests("flaky")) == 3


@pytest.mark.slow
def test_planted_a_flaky_test(world: World, validated: Validate) -> None:
    """By the clock, it fails about half of the time; never is it a proof, in any of the runs."""
    tests = "import time\ndef test_flaky(): assert time.perf_counter_ns() // 1000 % 2\n"
    grow(
        world,
        {"calc.py": BEFORE},
        {"calc.py": AFTER, "test_calc.py": NEW_TEST, "test_flaky.py": tests},
    )
    found = [validated() for _ in range(6)]
    # By chance alone one of a thousand: five failures before and five passes after.
    assert not any("test_flaky.py::test_flaky" in one.tests("fail_to_pass") for one in found)
    assert all(one.tests("fail_to_pass") == ["test_calc.py::test_sum"] for one in found)


@pytest.mark.slow
def test_planted_a_file_that_only_the_parent_lacks(world: World, validated: Validate) -> None:
    """Tests of something that was there all along, in a new file: they guard."""
    grow(
        world,
        {"calc.py": AFTER, "other.py": "x = 1\n"},
        {"calc.py": AFTER, "other.py": "x = 2\n", "test_calc.py": NEW_TEST},
    )
    found = validated()
    assert found.why == "nothing_fails"
    assert len(found.tests("guard")) == 2


# --- rude suites


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tests", "why"),
    [
        ("import time\ntime.sleep(60)\n", "nothing_runs"),
        ("import os\nos._exit(0)\n", "nothing_runs"),
        ("while True: print('x' * 100_000)\n", "nothing_runs"),
        ("import shutil\ndef test_a(): shutil.rmtree('.', True); assert 0\n", "nothing_passes"),
        (
            "import socket\ndef test_a(): socket.create_connection(('192.0.2.1', 80), 1)\n",
            "nothing_passes",
        ),
        ("import sys\ndef test_a(): open(sys.prefix + '/x', 'w')\n", "nothing_passes"),
        ("match 1:\n  case 1 if: pass\n", "nothing_runs"),
        ("", "nothing_runs"),
    ],
    ids=["hangs", "exits", "prints", "deletes", "network", "writes", "syntax", "empty"],
)  # fmt: skip
def test_a_rude_suite_is_an_outcome_with_a_reason(
    world: World, validated: Validate, tests: str, why: str
) -> None:
    grow(world, {"calc.py": BEFORE}, {"calc.py": AFTER, "tests/test_calc.py": tests})
    found = validated(
        limits=Limits(wall_s=20, output_bytes=1 << 20), patience=Patience(collect_s=3, test_s=5)
    )
    assert found.why == why


def test_the_answer_is_nowhere_in_the_sandbox(world: World, validated: Validate) -> None:
    """No run finds git's objects: not the parent's, not the commit's."""
    tests = """
import os, subprocess
def test_a():
    assert not os.path.exists('.git')
    assert subprocess.run(['git', 'log'], capture_output=True).returncode
"""
    grow(world, {"calc.py": BEFORE}, {"calc.py": AFTER, "test_calc.py": tests})
    found = validated()
    assert found.tests("guard") == ["test_calc.py::test_a"]
