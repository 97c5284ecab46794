"""What can happen to a campaign: another one beside it, a full disk, workers that are killed."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.coding.conftest import World
from tests.observe.small_project import FIRST, SECOND

from twin.coding.git import GitRepository
from twin.config import Config
from twin.cycle import campaign, harness
from twin.cycle.campaign import run_campaign
from twin.cycle.harness import pack_now, validate_pack
from twin.errors import StoreFull
from twin.store.database import Store, open_store

pytestmark = [pytest.mark.usefixtures("no_index"), pytest.mark.slow]

NUM_COMMITS = 5

PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from twin.config import Config
from twin.cycle import harness
from twin.cycle.campaign import run_campaign
from twin.store.database import open_store

root, home, planner, workers, victim = sys.argv[1:]
validated = harness._Validating._validated

def noted(self, one):
    with open(Path(root, "begun"), "a") as file:
        file.write(one.commit_id + "\\n")
    if one.commit_id == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    return validated(self, one)

harness._Validating._validated = noted
if __name__ == "__main__":
    # Whoever runs the tests in the background may have it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open_store(Path(home)) as store:
        found = run_campaign(
            Path(root, "world.pack"), store, Config(),
            planner=planner, executor=planner, workers=int(workers),
        )
    print(json.dumps({"solved": found.num_solved, "trials": len(found.trials)}))
"""
"""A campaign that notes what it begins to validate, and whose worker dies over `victim`."""


@pytest.fixture
def commits(tmp_path: Path) -> list[str]:
    """A pack of some valid commits, and the program; their ids."""
    world = World(tmp_path / "world")
    more = [
        {"calc/__init__.py": f"def add(a, b): return a + b + {n}\n",
         "tests/test_calc.py": SECOND["tests/test_calc.py"].replace("== 3", f"== {3 + n}")}
        for n in range(NUM_COMMITS)
    ]  # fmt: skip
    world.grow(*(("Make add add its numbers instead", files) for files in (FIRST, *more)))
    (tmp_path / "home").mkdir()
    with (
        GitRepository.open(world.root) as repository,
        open_store(tmp_path / "home") as store,
    ):
        packed = pack_now(repository, store, Config(), tmp_path / "world.pack")
    (tmp_path / "program.py").write_text(PROGRAM)
    return [one.commit_id for one in packed.commits]


@pytest.fixture
def store(tmp_path: Path, commits: list[str]) -> Iterator[Store]:
    with open_store(tmp_path / "home") as store:
        yield store


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    def start(
        planner: str = "gold", workers: int = 1, victim: str = "", home: Path | None = None
    ) -> "subprocess.Popen[str]":
        told = (tmp_path, home or tmp_path / "home", planner, workers, victim)
        line = [sys.executable, tmp_path / "program.py", *told]
        pipe = subprocess.PIPE
        return subprocess.Popen(list(map(str, line)), stdout=pipe, stderr=pipe, text=True)

    return start


def told(process: "subprocess.Popen[str]") -> Any:
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return json.loads(out)


def begun(tmp_path: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return (tmp_path / "begun").read_text().split()
    return []


def test_two_campaigns_at_once_do_everything_once_and_both_know_all(
    start: Callable[..., "subprocess.Popen[str]"], commits: list[str], tmp_path: Path
) -> None:
    both = [start("gold"), start("null", workers=2)]
    assert [told(process) for process in both] == [
        {"solved": NUM_COMMITS, "trials": NUM_COMMITS},
        {"solved": 0, "trials": NUM_COMMITS},
    ]
    assert sorted(begun(tmp_path)) == sorted(commits)


def test_a_commit_that_kills_its_workers_is_an_outcome_with_a_reason(
    start: Callable[..., "subprocess.Popen[str]"],
    commits: list[str],
    store: Store,
    tmp_path: Path,
) -> None:
    victim = commits[1]
    found = told(start("gold", workers=2, victim=victim))
    assert found == {"solved": NUM_COMMITS - 1, "trials": NUM_COMMITS - 1}
    assert begun(tmp_path).count(victim) == 3
    known = validate_pack(tmp_path / "world.pack", store, tmp_path / "environments")
    assert known.num_known == NUM_COMMITS
    assert known.validations[1].why == "error"
    assert "was killed" in known.validations[1].detail


def test_three_campaigns_killed_over_the_same_commit_are_three_tries(
    start: Callable[..., "subprocess.Popen[str]"],
    commits: list[str],
    store: Store,
    tmp_path: Path,
) -> None:
    for _ in range(3):
        process = start(victim=commits[0])
        process.communicate(timeout=100)
        assert process.returncode == -9
    found = validate_pack(tmp_path / "world.pack", store, tmp_path / "environments")
    assert begun(tmp_path) == [commits[0]] * 3
    assert found.why == {"error": 1}
    assert "was killed" in found.validations[0].detail


def test_a_trial_that_fails_three_times_is_an_outcome_with_a_reason(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commits: list[str]
) -> None:
    tried = []

    def fails(self: object, item: campaign._Item, *rest: object) -> Any:
        tried.append(item.proof.commit_id)
        raise OSError(24, "Too many open files")

    pack = tmp_path / "world.pack"
    with monkeypatch.context() as patched:
        patched.setattr(campaign._Solving, "_execute", fails)
        found = run_campaign(
            pack, store, Config(), planner="gold", executor="gold", newest=1, workers=1
        )
    assert tried == [commits[-1]] * 3
    assert found.why == {"error": 1}
    assert "Too many open files" in found.trials[0].detail
    assert found.trials[0].alignment == 1  # its plan was good
    again = run_campaign(
        pack, store, Config(), planner="gold", executor="gold", newest=1, workers=1
    )
    assert again.trials == found.trials


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no tmpfs can be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_ends_a_campaign_with_the_cure_and_the_next_one_goes_on(
    small_disk: Path, commits: list[str], tmp_path: Path, workers: int
) -> None:
    pack, place = tmp_path / "world.pack", tmp_path / "environments"
    with open_store(small_disk) as store:
        assert validate_pack(pack, store, place, newest=1).num_valid == 1
        with pytest.raises(StoreFull, match="Free some space"):
            fill_while(lambda: validate_pack(pack, store, place, workers=workers), small_disk)
    (small_disk / "filler").unlink()
    with open_store(small_disk) as store:
        found = validate_pack(pack, store, place)
        assert found.num_known >= 1
        assert found.num_valid == NUM_COMMITS
        assert {one.why for one in found.validations} == {""}


def fill_while(work: Callable[[], object], disk: Path) -> None:
    with open(disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    work()


def test_a_full_disk_below_a_run_counts_against_no_commit(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, one: object) -> Any:
        raise OSError(28, "No space left on device")

    pack, place = tmp_path / "world.pack", tmp_path / "environments"
    with monkeypatch.context() as patched:
        patched.setattr(harness._Validating, "_validated", full)
        for _ in range(4):
            with pytest.raises(StoreFull, match="Free some space"):
                validate_pack(pack, store, place, newest=1)
    assert validate_pack(pack, store, place, newest=1).num_valid == 1


def test_a_summary_of_many_answers_does_not_hold_them_all(
    store: Store, tmp_path: Path, commits: list[str]
) -> None:
    found = validate_pack(tmp_path / "world.pack", store, tmp_path / "environments")
    assert len(found.validations) == NUM_COMMITS
    assert next(iter(found.validations)) is not found.validations[0]
    assert [one.commit_id for one in found.validations[1:3]] == commits[1:3]
    assert found.validations[:0] == ()


@pytest.mark.usefixtures("commits")
def test_ctrl_c_ends_a_campaign_at_once(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    process = start(workers=2)
    while not begun(tmp_path):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(2)
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in err
    assert not os.path.exists(f"/proc/{process.pid}")
