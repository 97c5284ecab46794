"""Which changed lines the tests run, whatever the tests do to the tracer."""

from tests.coding.sandbox.conftest import archive

from twin.coding.changed import Sides
from twin.coding.sandbox.cell import Sandbox
from twin.coding.testing.results import Selection, TestEnvironment, TestRun
from twin.coding.testing.run import run_tests
from twin.coding.testing.trees import Tree
from twin.observe.coverage import coverage_of, reaching
from twin.records import DiffCoverage, FileChange

BEFORE = b"""def sign(n):
    return 1
"""
AFTER = b"""import math

# a comment
def sign(n):
    if n < 0:
        return -1
    return 1

def twice(n):
    return [
        n
        for _ in range(2)
    ]
"""


def ran(sandbox: Sandbox, environment: TestEnvironment, tests: str, **files: str) -> TestRun:
    tree = Tree(archive({"calc.py": AFTER.decode(), "test_calc.py": tests, **files}))
    selection = Selection(watched=("calc.py", "other.py"))
    run = run_tests(sandbox, tree, selection, environment)
    return run


def of_diff(run: TestRun) -> DiffCoverage:
    change = FileChange(path="calc.py", status="M", old_blob="1", new_blob="2")
    return coverage_of([Sides(change=change, before=BEFORE, after=AFTER)], run)


def test_changed_lines_that_no_test_runs_are_told(
    sandbox: Sandbox, small_environment: TestEnvironment
) -> None:
    tests = "from calc import sign\ndef test_a(): assert sign(1) == 1\ndef test_b(): sign(2)\n"
    run = ran(sandbox, small_environment, tests)
    found = of_diff(run)
    assert found.changed == {"calc.py": (1, 5, 6, 9, 10, 11, 12)}
    assert found.covered == {"calc.py": (1, 5, 9)}
    assert found.missed == {"calc.py": [6, 10, 11, 12]}
    assert found.share == 3 / 7
    assert list(reaching("calc.py", [5], run)) == ["test_calc.py::test_a", "test_calc.py::test_b"]
    assert list(reaching("calc.py", [6], run)) == []


def test_a_test_with_a_tracer_of_its_own_costs_its_own_lines_only(
    sandbox: Sandbox, small_environment: TestEnvironment
) -> None:
    tests = """
import sys, threading
from calc import sign, twice
def test_rude():
    sys.settrace(None)
    sign(1)
def test_thread():
    thread = threading.Thread(target=sign, args=(-1,))
    thread.start()
    thread.join()
def test_crash():
    sign(1)
    import os
    os._exit(3)
def test_last(): twice(1)
"""
    found = of_diff(ran(sandbox, small_environment, tests))
    assert found.missed == {"calc.py": []} or not found.missed


def test_a_file_that_does_not_compile_or_is_not_there_has_no_lines(
    sandbox: Sandbox, small_environment: TestEnvironment
) -> None:
    run = ran(sandbox, small_environment, "def test_a(): pass", **{"other.py": "("})
    assert run.executable["other.py"] == 0
    assert of_diff(run).num_covered == 0
