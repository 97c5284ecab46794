"""Killed at any moment, used by two processes at once: what was acknowledged is there."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Place

WRITES_OF_EVERY_KIND = """
from itertools import count
from twin.records import Lineage, RankedFile, RetrievalDecision

lineage = Lineage(code_version="1", dataset_hash="d")
for n in count():
    run = store.runs.begin("improve", "a/b", {})
    store.runs.stage_done(run, "mine", str(n), {"n": n}, 0.1)
    print("stage", n, flush=True)
    digest = store.artifacts.put(str(n).encode() * 1000)
    version = store.registry.add(model="m", artifact=digest, lineage=lineage, metrics={})
    store.registry.move(version.version_id, "passed", "good")
    store.registry.promote(version.version_id, "better")
    print("live", version.version_id, digest, flush=True)
    store.blobs.put_many("parse", 1, {f"{n}-{i}": bytes(2000) for i in range(50)})
    print("blobs", n, flush=True)
    store.snapshots.put("a/b", f"commit-{n}", {f"file{i}.py": str(n) for i in range(500)})
    print("snapshot", n, flush=True)
"""

WRITES_ONE_HISTORY_OVER_ANOTHER = """
from itertools import count
from twin.records import Commit, FileChange, MinedCommit

def mined(head, number):
    changes = tuple(FileChange(path=f"{head}/{i}.py", status="M") for i in range(3))
    commit = Commit(commit_id=f"{head}-{number}", parent_ids=(), author_name="", author_email="",
                    author_time=0, commit_time=0, subject=head, body="", changes=changes)
    return MinedCommit(commit=commit, num_source_files=3, num_test_files=0, num_source_lines=1,
                       message_score=1.0)

for n in count():
    store.history.replace("a/b", f"head{n}", (mined(f"head{n}", i) for i in range(2500)))
    print("head", n, flush=True)
"""

WRITES_A_LITTLE_OF_EVERYTHING = """
from twin.records import Lineage
name = arguments[0]
lineage = Lineage(code_version=name, dataset_hash="d")
for n in range(10):
    version = store.registry.add(model="m", artifact="a" * 64, lineage=lineage, metrics={})
    store.registry.move(version.version_id, "passed", name)
    store.registry.promote(version.version_id, name)
    store.blobs.put_many("parse", 1, {f"{i}": b"x" for i in range(200)})
    store.history.append("a/b", name, [])
    run = store.runs.begin("improve", "a/b", {})
    store.runs.finish(run, "done", {})
"""

OPENS = "store.runs.begin('improve', arguments[0], {})"


def killed_after(process: subprocess.Popen[str], num_lines: int) -> list[list[str]]:
    """Everything the process acknowledged before SIGKILL ended it, some lines later."""
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(num_lines)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.stdout.close()
    process.wait()
    assert process.returncode == -signal.SIGKILL
    return [line.split() for line in lines if line.endswith("\n")]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_everything_acknowledged_before_a_kill_is_there(new_place: Place, seed: int) -> None:
    process = new_place.start(WRITES_OF_EVERY_KIND)
    acknowledged = killed_after(process, random.Random(seed).randint(1, 25))
    with new_place.open() as store:
        for kind, *said in acknowledged:
            if kind == "stage":
                assert store.runs.finished_stage("a/b", "mine", said[0]) == {"n": int(said[0])}
            elif kind == "live":
                version = store.registry.get(said[0])
                assert version.status in ("live", "retired")
                assert store.artifacts.get(version.artifact)
            elif kind == "blobs":
                wanted = [f"{said[0]}-{i}" for i in range(50)]
                assert set(store.blobs.get_many("parse", 1, wanted)) == set(wanted)
        shot = [said[0] for kind, *said in acknowledged if kind == "snapshot"]
        for number in shot[-10:]:  # The store keeps the last few.
            files = store.snapshots.get("a/b", f"commit-{number}")
            assert files == {f"file{i}.py": number for i in range(500)}
        assert len([v for v in store.registry.versions("m") if v.status == "live"]) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_history_killed_half_way_is_the_old_one_or_the_new_one(
    new_place: Place, seed: int
) -> None:
    process = new_place.start(WRITES_ONE_HISTORY_OVER_ANOTHER)
    acknowledged = killed_after(process, random.Random(seed).randint(1, 3))
    with new_place.open() as store:
        head = store.history.head("a/b")
        commits = store.history.commits("a/b")
    assert head is not None
    last = int(acknowledged[-1][1])
    assert int(head.removeprefix("head")) in (last, last + 1)
    assert [commit.commit.commit_id for commit in commits] == [f"{head}-{n}" for n in range(2500)]
    assert {len(commit.commit.changes) for commit in commits} == {3}


@pytest.mark.slow
def test_two_processes_that_write_at_once_both_succeed(new_place: Place) -> None:
    new_place.open().close()
    processes = [new_place.start(WRITES_A_LITTLE_OF_EVERYTHING, name) for name in ("one", "two")]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    with new_place.open() as store:
        versions = store.registry.versions("m")
        moves = store.registry.history("m")
        assert len(store.runs.runs(limit=100)) == 20
    assert [version.version_id for version in versions] == [f"m-{n}" for n in range(1, 21)]
    assert Counter(version.lineage.code_version for version in versions) == {"one": 10, "two": 10}
    assert Counter(version.status for version in versions) == {"live": 1, "retired": 19}
    assert len(moves) == 20 * 3 - 1


@pytest.mark.slow
def test_processes_that_open_a_new_store_at_once_all_get_it(new_place: Place) -> None:
    processes = [new_place.start(OPENS, name) for name in "abc"]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    with new_place.open() as store:
        assert sorted(run.repository for run in store.runs.runs()) == list("abc")


def test_a_kill_while_opening_a_new_store_leaves_one_that_opens(new_place: Place) -> None:
    for delay_s in (0.5, 0.8):
        process = new_place.start("")
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with new_place.open() as store:
        assert store.registry.versions() == []
