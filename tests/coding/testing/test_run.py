"""Every test has its result, whatever the others do."""

from pathlib import Path

import pytest
from tests.coding.testing.conftest import Runs

from twin.coding.testing.hearing import Patience
from twin.coding.testing.results import Selection, TestEnvironment, TestRun


def outcomes(run: TestRun) -> dict[str, str]:
    return {test.partition("::")[2]: result.outcome for test, result in run.results.items()}


EVERY_KIND = """
import pytest, unittest

@pytest.fixture
def broken(): raise ValueError("set-up")

@pytest.fixture
def messy():
    yield
    raise ValueError("tear-down")

def test_passes(): pass
def test_fails(): assert 1 == 2, "a reason"
def test_set_up(broken): pass
def test_tear_down(messy): pass
@pytest.mark.skip
def test_skipped(): pass
@pytest.mark.xfail
def test_expected(): assert False
@pytest.mark.xfail
def test_surprise(): pass
@pytest.mark.parametrize("x", ["a b", "\\u00e9::/"])
def test_parametrized(x): pass

class TestOld(unittest.TestCase):
    def test_method(self): self.assertTrue(True)
"""


def test_each_kind_of_end_is_told_apart(tests_of: Runs) -> None:
    run = tests_of({"test_a.py": EVERY_KIND})
    found = outcomes(run)
    assert found.pop("test_parametrized[a b]") == "passed"
    assert found == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_set_up": "error",
        "test_tear_down": "error",
        "test_skipped": "skipped",
        "test_expected": "xfailed",
        "test_surprise": "xpassed",
        "test_parametrized[\\xe9::/]": "passed",
        "TestOld::test_method": "passed",
    }
    assert "a reason" in run.results["test_a.py::test_fails"].text
    assert (run.fault, run.broken, run.num_starts) == ("", {}, 1)


def test_a_file_that_cannot_be_imported_costs_no_other(tests_of: Runs) -> None:
    run = tests_of({"test_a.py": "import nowhere", "test_b.py": "def test_b(): pass"})
    assert list(run.broken) == ["test_a.py"]
    assert "nowhere" in run.broken["test_a.py"]
    assert outcomes(run) == {"test_b": "passed"}
    assert run.fault == ""


CRASHES = """
import os, ctypes
def test_1(): pass
def test_2(): ctypes.string_at(0)
def test_3(): assert False
def test_4(): os._exit(0)
def test_5(): pass
"""


def test_a_crash_costs_its_own_test_alone(tests_of: Runs) -> None:
    run = tests_of({"test_a.py": CRASHES})
    assert outcomes(run) == {
        "test_1": "passed",
        "test_2": "crashed",
        "test_3": "failed",
        "test_4": "crashed",
        "test_5": "passed",
    }
    assert "signal 11" in run.results["test_a.py::test_2"].text
    assert run.num_starts == 3
    assert not run.unsteady


@pytest.mark.slow
def test_a_test_that_hangs_costs_its_own_time_alone(tests_of: Runs) -> None:
    program = "import time\ndef test_1(): time.sleep(60)\ndef test_2(): pass"
    run = tests_of({"test_a.py": program}, patience=Patience(test_s=1))
    assert outcomes(run) == {"test_1": "timeout", "test_2": "passed"}


@pytest.mark.slow
def test_a_suite_that_hangs_while_it_is_collected_is_given_up(tests_of: Runs) -> None:
    run = tests_of({"test_a.py": "import time; time.sleep(60)"}, patience=Patience(collect_s=1.5))
    assert not run.results
    assert "took too long" in run.fault


@pytest.mark.slow
def test_a_suite_that_takes_too_long_keeps_what_it_had(tests_of: Runs) -> None:
    program = "import time\n" + "".join(
        f"def test_{n}(): time.sleep({60 if n == 3 else 0})\n" for n in range(6)
    )
    run = tests_of({"test_a.py": program}, wall_s=2.5)
    assert outcomes(run) == {
        "test_0": "passed",
        "test_1": "passed",
        "test_2": "passed",
        "test_3": "timeout",
    }
    assert "the rest did not run" in run.fault


@pytest.mark.slow
def test_too_many_crashes_end_it(tests_of: Runs) -> None:
    program = "import os\n" + "".join(f"def test_{n}(): os._exit(3)\n" for n in range(6))
    run = tests_of({"test_a.py": program}, patience=Patience(max_crashes=2))
    assert len(run.results) == 3
    assert run.fault == "crashed 3 times, and 3 tests did not run"


@pytest.mark.slow
def test_a_thread_that_never_ends_does_not_hold_it_up(tests_of: Runs) -> None:
    program = """
import threading, time
def test_1(): threading.Thread(target=time.sleep, args=(60,)).start()
"""
    run = tests_of({"test_a.py": program})
    assert outcomes(run) == {"test_1": "passed"}
    assert run.wall_s < 20


def test_a_test_that_forks_is_counted_once(tests_of: Runs) -> None:
    program = """
import os
def test_1():
    child = os.fork()
    if child: os.waitpid(child, 0)
def test_2(): pass
"""
    assert outcomes(tests_of({"test_a.py": program})) == {"test_1": "passed", "test_2": "passed"}


def test_chance_is_the_same_in_every_run(tests_of: Runs) -> None:
    program = "import random\n" + "".join(
        f"def test_{n}(): assert False, random.random()\n" for n in range(2)
    )
    texts = [
        [result.text for result in tests_of({"test_a.py": program}).results.values()]
        for _ in range(2)
    ]
    assert texts[0] == texts[1]


def test_a_selection_is_run_and_nothing_else(tests_of: Runs) -> None:
    files = {
        "tests/test_a.py": "def test_1(): pass\ndef test_2(): pass\ndef test_3(): pass",
        "tests/test_b.py": "def test_1(): pass",
        "-x/test_c.py": "def test_1(): pass",
    }
    assert len(tests_of(files, Selection(paths=("tests/test_b.py",))).results) == 1
    assert len(tests_of(files, Selection(paths=("-x/test_c.py",))).results) == 1
    only = frozenset({"tests/test_a.py::test_1", "tests/test_a.py::test_3"})
    run = tests_of(files, Selection(paths=("tests",), only=only, reverse=True))
    assert list(run.results) == ["tests/test_a.py::test_3", "tests/test_a.py::test_1"]


def test_a_path_that_is_not_there_is_a_fault(tests_of: Runs) -> None:
    run = tests_of({"test_a.py": "def test_1(): pass"}, Selection(paths=("nowhere.py",)))
    assert "code 4" in run.fault
    assert "nowhere.py" in run.fault


def test_an_environment_without_pytest_is_a_fault(tests_of: Runs) -> None:
    bare = TestEnvironment(python=Path("/usr/bin/python3"))
    if not bare.python.exists() or (Path("/usr/lib/python3/dist-packages/pytest")).exists():
        pytest.skip("needs a Python without pytest")
    run = tests_of({"test_a.py": "def test_1(): pass"}, environment=bare)
    assert "No module named 'pytest'" in run.fault


def test_a_tree_is_imported_from_src_where_it_has_one_and_its_metadata_from_beside(
    tests_of: Runs, environment: TestEnvironment, tmp_path: Path
) -> None:
    info = tmp_path / "beside" / "project-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: project\nVersion: 1.2\n")
    files = {
        "src/project/__init__.py": "from project._version import version",
        "tests/test_a.py": """
import importlib.metadata, project, subprocess, sys
def test_1(): assert project.version == importlib.metadata.version("project") == "1.2"
def test_2(): subprocess.run([sys.executable, "-c", "import project"], check=True)
""",
    }
    environment = TestEnvironment(
        python=environment.python,
        last=(tmp_path / "beside",),
        files={"src/project/_version.py": b"version = '1.2'"},
    )
    run = tests_of(files, environment=environment)
    assert outcomes(run) == {"test_1": "passed", "test_2": "passed"}


def test_lines_that_a_test_writes_among_the_results_are_no_results(tests_of: Runs) -> None:
    program = """
import os
def test_1():
    line = b'{"kind": "end", "id": "x", "outcome": "odd"}\\n'
    for number in range(3, 64):
        try: os.write(number, b'{"kind": 3}\\nnonsense\\n' + line)
        except OSError: pass
def test_2(): pass
"""
    found = outcomes(tests_of({"test_a.py": program}))
    assert {"test_1", "test_2"} <= found.keys()
    assert "odd" not in found.values()


def test_a_test_that_is_not_the_same_each_time_is_unsteady(tests_of: Runs) -> None:
    program = """
count = []
def test_1():
    count.append(1)
    assert len(count) < 3
def test_2(): assert count
def test_3(): assert False
"""
    run = tests_of({"test_a.py": program}, Selection(num_repeats=3))
    assert run.unsteady == {"test_a.py::test_1"}
    assert outcomes(run) == {"test_1": "passed", "test_2": "passed", "test_3": "failed"}


def test_node_ids_begin_at_the_root_also_where_settings_lie_beside_the_tests(
    tests_of: Runs,
) -> None:
    files = {"tests/pytest.ini": "[pytest]\n", "tests/test_a.py": "def test(): pass\n"}
    assert list(tests_of(files).results) == ["tests/test_a.py::test"]
    assert list(tests_of(files, Selection(paths=("tests/test_a.py",))).results) == [
        "tests/test_a.py::test"
    ]
