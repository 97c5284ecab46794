"""Where a control group can be had the kernel limits a run as a whole; elsewhere it is watched."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.coding.sandbox.conftest import Runs

from twin.coding.sandbox import cgroups
from twin.coding.sandbox.cgroups import Place, group

MANY = """
import os, time
made = 0
for _ in range(100):
    try:
        if not os.fork(): time.sleep(30)
        made += 1
    except OSError:
        break
print(made)
"""
BOMB = "x = bytearray(300 << 20); print('alive')"


@pytest.fixture
def place() -> Place:
    found = cgroups.place()
    if found is None:
        pytest.skip("no control group can be made here")
    return found


def run_in(made: cgroups.Group, program: str) -> "subprocess.CompletedProcess[bytes]":
    line = made.entering([sys.executable, "-I", "-S", "-c", program])
    return subprocess.run(line, capture_output=True, check=False)


def test_the_kernel_ends_what_takes_more_memory_than_the_group_has(place: Place) -> None:
    with group(place, 64 << 20, 100) as made:
        assert run_in(made, "print('alive')").stdout == b"alive\n"
        assert not made.has_run_out()
        assert run_in(made, BOMB).returncode == -9
        assert made.has_run_out()
    assert not any(folder.exists() for folder in made.folders)


def test_a_group_holds_no_more_processes_than_it_may(place: Place) -> None:
    program = MANY.replace("time.sleep(30)", "time.sleep(1), os._exit(0)")
    with group(place, 256 << 20, 4) as made:
        assert int(run_in(made, program).stdout.split()[-1]) == 3 + cgroups.OWN_PROCESSES


def test_what_killed_processes_left_is_removed(place: Place) -> None:
    left = {folder / "twin-999999999-1" for folder in place.folders}
    for folder in left:
        folder.mkdir()
    cgroups.place.cache_clear()
    assert cgroups.place() == place
    assert not any(folder.exists() for folder in left)


def test_a_group_of_version_2_is_given_its_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "REMOVE_S", 0.0)  # what stands for a group here is a full folder
    (tmp_path / "cgroup").mkdir()
    with group(Place(version=2, folders=(tmp_path, tmp_path)), 1000, 4) as made:
        (folder,) = made.folders
        wrote = {file.name: file.read_text() for file in folder.iterdir()}
        assert wrote["memory.max"] == "1000"
        assert wrote["memory.oom.group"] == "1"
        assert wrote["pids.max"] == str(4 + cgroups.OWN_PROCESSES)
        assert made.entering(["x"])[-2:] == [str(folder / "cgroup.procs"), "x"]
        (folder / "memory.events").write_text("low 0\noom 3\noom_kill 0\n")
        assert not made.has_run_out()
        (folder / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
        assert made.has_run_out()


def test_a_run_says_what_limits_it(run: Runs, place: Place) -> None:
    ended = run("print(1)")
    assert ended.is_ok
    assert ended.limiter == f"cgroup v{place.version}"
    shared = (
        "import os\nfor n in range(6): os.fork()\nx = b'x' * (20 << 20)\nimport time\ntime.sleep(9)"
    )
    ended = run(shared, memory_bytes=200 << 20, disk_bytes=10 << 20)
    assert (ended.cause, ended.detail) == ("memory", "held more than 200 MiB in memory")


@pytest.fixture
def no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "place", lambda: None)


@pytest.mark.usefixtures("no_place")
def test_without_a_group_a_run_is_watched(run: Runs) -> None:
    program = f"import os\nfor n in range(3): os.fork()\n{BOMB}\nimport time\ntime.sleep(9)"
    ended = run(program, memory_bytes=800 << 20)
    assert (ended.limiter, ended.cause) == ("watching", "memory")
    ended = run(MANY, num_processes=10)
    assert int(ended.output.split()[-1]) < 10
