"""Work on the nodes of a real Ray cluster, of two nodes on this machine; one is killed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.coding.conftest import World
from tests.observe.small_project import FIRST, SECOND
from tests.store import conftest as databases

from twin.cli.main import run
from twin.cycle.workers import spread
from twin.errors import ConfigError
from twin.store.database import open_store

if TYPE_CHECKING:
    from tests.store.conftest import Server
postgresql = databases.postgresql
"""The server that the store is tested with."""

ROOT = Path(__file__).parents[2]

CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
other = cluster.add_node(num_cpus=2)
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(other, allow_graceful=False)
    print("killed", flush=True)
cluster.shutdown()
"""
"""Kills its second node for the first line that it reads."""

PROGRAM = """
import sys
from functools import partial
from pathlib import Path
from tests.cycle.test_cluster import Slow
from twin.cycle.workers import spread
from twin.store.database import open_store
place, url, address, refuses, num_items = sys.argv[1:]
items = [(str(n), n) for n in range(int(num_items))]
with open_store(Path(place), url) as store:
    print(spread(store, partial(Slow, Path(place), refuses == "refuses"), items, None,
                 tell=lambda left: None, ray=address))
"""


class Slow:
    """Takes a moment, and notes what was done by whom. One node refuses, if told so."""

    def __init__(self, place: Path, refuses: bool, store: object) -> None:
        import ray

        from twin.errors import PackDamaged

        self.place = place
        self.node = ray.get_runtime_context().get_node_id()
        with contextlib.suppress(FileExistsError):
            (place / "first").symlink_to(self.node)
        if refuses and os.readlink(place / "first") == self.node:
            raise PackDamaged("there is no such pack here")

    def answer(self, told: int) -> None:
        time.sleep(0.2)
        with (self.place / "done").open("a") as file:
            file.write(f"{told} {self.node}\n")

    def failure(self, told: int, reason: str) -> None:
        raise AssertionError(reason)

    def close(self) -> None:
        pass


@pytest.fixture
def cluster() -> Iterator[subprocess.Popen[str]]:
    pytest.importorskip("ray")
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=os.environ | quiet,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


def done(place: Path) -> list[tuple[int, str]]:
    with contextlib.suppress(FileNotFoundError):
        lines = (place / "done").read_text().splitlines()
        return [(int(number), node) for number, node in map(str.split, lines)]
    return []


@pytest.fixture
def begin(
    cluster: subprocess.Popen[str], postgresql: Server, tmp_path: Path
) -> Callable[[str, int], subprocess.Popen[str]]:
    def begin(refuses: str, num_items: int) -> subprocess.Popen[str]:
        assert cluster.stdout is not None
        told = [tmp_path, postgresql.new_schema(), cluster.stdout.readline().strip()]
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, told), refuses, str(num_items)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )

    return begin


@pytest.mark.slow
def test_a_node_that_is_killed_under_load_loses_nothing_and_repeats_nothing(
    begin: Callable[[str, int], subprocess.Popen[str]],
    cluster: subprocess.Popen[str],
    tmp_path: Path,
) -> None:
    assert cluster.stdin is not None
    with begin("", 120) as process:
        limit = time.monotonic() + 120
        while len({node for _, node in done(tmp_path)}) < 2 or len(done(tmp_path)) < 20:
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.1)
        cluster.stdin.write("kill\n")
        cluster.stdin.flush()
        assert process.wait(200) == 0
    found = [number for number, _ in done(tmp_path)]
    assert set(found) == set(range(120))
    # What was noted in the moment in which its worker was killed is done again.
    assert len(found) <= 120 + 2


@pytest.mark.slow
def test_a_node_that_cannot_take_part_says_why_and_the_other_does_its_share(
    begin: Callable[[str, int], subprocess.Popen[str]], tmp_path: Path
) -> None:
    with begin("refuses", 10) as process:
        said, _ = process.communicate(timeout=200)
    assert process.returncode == 0
    assert "there is no such pack here" in said
    assert sorted(number for number, _ in done(tmp_path)) == list(range(10))
    assert os.readlink(tmp_path / "first") not in {node for _, node in done(tmp_path)}


def test_machines_cannot_share_a_store_that_is_a_file(tmp_path: Path) -> None:
    with (
        open_store(tmp_path) as store,
        pytest.raises(ConfigError, match=r"store\.url"),
    ):
        spread(store, lambda store: None, [("1", 1)], 1, tell=lambda left: None, ray="auto")  # type: ignore[arg-type, return-value]


@pytest.mark.slow
@pytest.mark.usefixtures("no_index")
def test_a_pack_is_validated_and_solved_by_a_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    world = World(tmp_path / "world")
    world.grow(*(("Make add add its numbers instead", files) for files in (FIRST, SECOND)))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run(["pack", str(world.root), "--json"]) == 0
    capsys.readouterr()
    program = "from twin.cli.main import main; main()"
    line = [sys.executable, "-c", program, "harness", "run", "world.pack"]
    told = subprocess.run(
        [*line, "--ray", "local", "--workers", "2", "--json"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found = json.loads(told.stdout)
    assert (found["num_valid"], found["num_solved"], found["refused"]) == (1, 1, {})
