"""Selections that share a sandbox find what each would find alone."""

import contextlib
import os
from collections.abc import Callable

import pytest
from tests.coding.sandbox.conftest import archive
from tests.coding.testing.test_run import outcomes

from twin.coding.sandbox.cell import Sandbox
from twin.coding.sandbox.limits import Limits
from twin.coding.testing.hearing import Patience
from twin.coding.testing.results import Selection, TestEnvironment, TestRun
from twin.coding.testing.run import run_tests
from twin.coding.testing.session import TestSession
from twin.coding.testing.trees import Tree

Session = Callable[..., list[TestRun]]


@pytest.fixture
def runs_of(sandbox: Sandbox, environment: TestEnvironment) -> Session:
    """Runs selections of one program, or of one program after the other."""

    def run(
        program: str | tuple[str, ...],
        *selections: Selection,
        limits: Limits | None = None,
        **patience: float,
    ) -> list[TestRun]:
        patient = Patience(**patience)  # type: ignore[arg-type]
        with TestSession(sandbox, environment, patience=patient, limits=limits) as session:
            programs = (program,) if isinstance(program, str) else program
            trees = {one: Tree(archive({"test_a.py": one})) for one in programs}
            return [session.run(trees[one], asked) for one in programs for asked in selections]

    return run


def test_several_selections_do_not_meet(runs_of: Session) -> None:
    """Neither in memory, nor in the tree, at home or among temporary files."""
    program = """
import os, pathlib, tempfile
seen = []
def test_1():
    assert not seen
    seen.append(1)
    for place in (".", "~", os.environ["TMPDIR"]):
        file = pathlib.Path(place).expanduser() / "left"
        assert not file.exists()
        file.write_text("1")
    os.remove("test_a.py")
"""
    runs = runs_of(program, Selection(), Selection(reverse=True), Selection())
    assert [outcomes(run) for run in runs] == [{"test_1": "passed"}] * 3
    assert [run.num_starts for run in runs] == [1, 1, 1]


def test_each_selection_has_its_own_order(runs_of: Session) -> None:
    program = "def test_1(): pass\ndef test_2(): pass\ndef test_3(): pass\n"
    only = frozenset({"test_a.py::test_2"})
    runs = runs_of(program, Selection(), Selection(reverse=True), Selection(only=only))
    assert [list(outcomes(run)) for run in runs] == [
        ["test_1", "test_2", "test_3"],
        ["test_3", "test_2", "test_1"],
        ["test_2"],
    ]


def test_a_crash_in_one_selection_leaves_the_next_whole(runs_of: Session) -> None:
    program = """
import ctypes, os
def test_1(): pass
def test_2():
    if "again" not in os.environ: ctypes.string_at(0)
def test_3(): pass
"""
    first, second = runs_of(program, Selection(), Selection(reverse=True))
    expected = {"test_1": "passed", "test_2": "crashed", "test_3": "passed"}
    assert outcomes(first) == outcomes(second) == expected
    assert "signal 11" in second.results["test_a.py::test_2"].text


@pytest.mark.slow
def test_a_hang_in_one_selection_leaves_the_next_whole(runs_of: Session) -> None:
    program = "import time\ndef test_1(): pass\ndef test_2(): time.sleep(60)\ndef test_3(): pass\n"
    both = runs_of(program, Selection(), Selection(reverse=True), test_s=1)
    expected = {"test_1": "passed", "test_2": "timeout", "test_3": "passed"}
    assert [outcomes(run) for run in both] == [expected, expected]


def test_a_process_that_a_selection_leaves_behind_does_not_meet_the_next(runs_of: Session) -> None:
    program = """
import os, subprocess
def test_1():
    others = [pid for pid in os.listdir("/proc") if pid.isdigit()]
    commands = [open(f"/proc/{pid}/cmdline").read() for pid in others]
    assert not any("sleep" in command for command in commands)
    subprocess.Popen(["sleep", "77"], start_new_session=True)
"""
    runs = runs_of(program, Selection(), Selection())
    assert [outcomes(run) for run in runs] == [{"test_1": "passed"}] * 2


ADDS = "def add(a, b): return a {} b\ndef test_add(): assert add(2, 1) == 3\n"


def test_each_tree_has_its_own_code(runs_of: Session) -> None:
    """Files of the same name, size and age: none is taken for another."""
    wrong, right = ADDS.format("-"), ADDS.format("+")
    runs = runs_of((wrong, right, wrong, right), Selection())
    assert [outcomes(run)["test_add"] for run in runs] == ["failed", "passed"] * 2
    assert {run.num_starts for run in runs} == {1}


def test_tests_are_collected_once_for_each_tree(runs_of: Session) -> None:
    program = """
import os
collected_by = os.getpid()
def test_1(record_property):
    assert os.getpid() != collected_by
    record_property("collected by", collected_by)
"""
    other = program + "def test_2(): pass\n"
    runs = runs_of((program, other, program), Selection(), Selection(reverse=True))
    by = [run.results["test_a.py::test_1"].properties for run in runs]
    assert by[0] == by[1] == by[4] == by[5]
    assert by[2] == by[3] != by[0]


@pytest.mark.parametrize(
    "left",
    [
        "import threading, time; threading.Thread(target=time.sleep, args=(99,)).start()",
        "import subprocess; subprocess.Popen(['sleep', '99'])",
        "import tempfile; kept = tempfile.NamedTemporaryFile()",
        "import tempfile; folder = tempfile.mkdtemp()",
        "import pathlib; pathlib.Path('made').write_text('')",
        "import pathlib; pathlib.Path('test_a.py').touch()",
        "import pathlib; pathlib.Path('../made').write_text('')",
        "import socket; pair = socket.socketpair()",
        "import os; pipe = os.pipe()",
        "import asyncio; loop = asyncio.new_event_loop()",
    ],
)
def test_what_collecting_leaves_behind_is_not_shared(runs_of: Session, left: str) -> None:
    """Each selection collects for itself, and finds it as it left it."""
    program = f"""
{left}
import os
collected_by = os.getpid()
def test_1():
    assert os.getpid() == collected_by
    if "folder" in globals():
        assert os.listdir(folder) == []
    if "kept" in globals():
        assert os.path.exists(kept.name)
    if os.path.exists("made"):
        os.remove("made")
"""
    runs = runs_of(program, Selection(), Selection())
    assert [outcomes(run) for run in runs] == [{"test_1": "passed"}] * 2


def test_tests_can_be_collected_afresh(runs_of: Session) -> None:
    program = """
import os, pytest
@pytest.mark.parametrize("pid", [os.getpid()])
def test_1(pid): pass
"""
    afresh = Selection(afresh=True)
    runs = runs_of(program, Selection(), Selection(reverse=True), afresh)
    first, second, third = (list(run.results) for run in runs)
    assert first == second
    assert first != third
    assert [run.num_starts for run in runs] == [1, 1, 1]


def test_files_that_cannot_be_collected_are_told_each_time(runs_of: Session) -> None:
    runs = runs_of("import nowhere", Selection(), Selection())
    assert [list(run.broken) for run in runs] == [["test_a.py"]] * 2
    assert [run.fault for run in runs] == ["", ""]


SURVIVES = "def test_9(): pass\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("import os, signal\ndef test_1(): os.kill(-1, signal.SIGKILL)\n", "failed"),
        ("import os, signal\ndef test_1(): os.kill(os.getppid(), signal.SIGKILL)\n", "failed"),
        ("def test_1(): kept = bytearray(1 << 34)\n", "failed"),
        (
            "import time\ndef test_1():\n    kept = b'x' * (300 << 20)\n    time.sleep(60)\n",
            "crashed",
        ),
        (
            "def test_1(capfd):\n"
            "    with capfd.disabled(): [print('x' * 100_000) for _ in range(100)]\n",
            "crashed",
        ),
    ],
)
def test_whatever_ends_the_sandbox_costs_time_alone(
    sandbox: Sandbox, environment: TestEnvironment, runs_of: Session, program: str, outcome: str
) -> None:
    """What is found is what is found in sandboxes of their own."""
    limits = Limits(wall_s=30, memory_bytes=256 << 20, output_bytes=1 << 20)
    program += SURVIVES
    alone = run_tests(
        sandbox, Tree(archive({"test_a.py": program})), Selection(), environment, limits=limits
    )
    assert outcomes(alone) == {"test_1": outcome, "test_9": "passed"}
    runs = runs_of((program, SURVIVES), Selection(), Selection(reverse=True), limits=limits)
    assert outcomes(runs[0]) == outcomes(runs[1]) == outcomes(alone)
    assert [outcomes(run) for run in runs[2:]] == [{"test_9": "passed"}] * 2


@pytest.mark.slow
def test_a_selection_can_be_less_patient(runs_of: Session) -> None:
    program = "import time\ndef test_1(): time.sleep(60)\ndef test_2(): pass\n"
    (run,) = runs_of(program, Selection(test_s=1.0))
    assert outcomes(run) == {"test_1": "timeout", "test_2": "passed"}


def test_a_crash_does_not_end_the_session(runs_of: Session) -> None:
    program = "import os\ndef test_1(): os.abort()\ndef test_2(): pass\n"
    first, second = runs_of(program, Selection(), Selection(reverse=True))
    assert outcomes(first) == outcomes(second) == {"test_1": "crashed", "test_2": "passed"}
    # In the session, and what was left after the crash. Then the session again.
    assert (first.num_starts, second.num_starts) == (2, 1)


@pytest.mark.slow
def test_the_clock_begins_again_with_each_call(runs_of: Session) -> None:
    program = "import time\ndef test_1(): time.sleep(3)\n"
    runs = runs_of((program, program, program), Selection(), limits=Limits(wall_s=6))
    assert [outcomes(run) for run in runs] == [{"test_1": "passed"}] * 3
    (late,) = runs_of(program, Selection(), limits=Limits(wall_s=2))
    assert outcomes(late) == {"test_1": "timeout"}
    assert late.fault.startswith("ran longer than 2 s")


def test_nothing_is_left_of_a_session_that_was_broken_off(
    sandbox: Sandbox, environment: TestEnvironment
) -> None:
    before = set(os.listdir("/proc/self/fd"))
    session = TestSession(sandbox, environment)
    with contextlib.suppress(KeyboardInterrupt), session:
        session.run(Tree(archive({"test_a.py": SURVIVES})), Selection())
        raise KeyboardInterrupt
    assert not session._thread.is_alive()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_program_without_descriptors_says_so(
    sandbox: Sandbox, environment: TestEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Sandbox, "run", refuse)
    with (
        pytest.raises(OSError, match="Too many open files"),
        TestSession(sandbox, environment) as session,
    ):
        session.run(Tree(archive({"test_a.py": SURVIVES})), Selection())
