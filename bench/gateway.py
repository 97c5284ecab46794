"""The gateway against LiteLLM, TensorZero and Portkey, and the upstream alone, side by side.

    python bench/gateway.py --install PEERS    installs the peers, once
    python bench/gateway.py --peers PEERS      measures
    python bench/gateway.py --peers PEERS --quick

Each gateway runs alone on one core (the others are stopped meanwhile), the mock upstream and the
load generator share another; `direct` is the same load on the mock without a gateway. This gateway
runs as installed: defaults, every call recorded. In each round, for each cell (connections,
streaming or not, size of the prompt) in random order, all targets are measured one after the other
in random order, so that what is compared was measured within seconds; differences and ratios are
medians over the rounds.

CPU is that of a gateway's whole process tree, the recorder included until it has caught up; in
brackets, of its first process alone. `paced` cells stream with pauses, as models do: --pace before
the first event, half to one and a half of it before every other. Without pauses the time to the
first token under 64 connections only says how long the queue is. LiteLLM and Portkey answer so
slowly that above 16 connections they are measured in the first round only. The load generator
acknowledges every packet at once, so that a gateway which writes small packets without TCP_NODELAY
(TensorZero's) is not seen as 40 ms slower than its work takes.

With --log FILE every run is a line there as soon as it is done, and runs it already has are not
repeated. The last line is JSON.
"""

import argparse
import fnmatch
import json
import os
import random
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gateway_load import ledger, targets, tools
from gateway_load.processes import GATEWAY_CORE, LOAD_CORE, until
from gateway_load.targets import TARGETS, Target

SLOW = ("litellm", "portkey")
MAX_SLOW_CONNECTIONS = 16
FRESH_STORE_MB = 1_000
"""Above it this gateway is started anew with an empty store: long before retention sets in."""
CAUGHT_UP_S = 60.0
QUICK = ("c1-whole-small", "c16-whole-small", "c16-stream-small", "c64-paced-small")
WORDS = ["the", "retry", "delay", "is", "read", "from", '\n"config"', "before", "each", "try"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    connections: int
    mode: str
    """`whole`, `stream` or `paced`."""
    prompt: str
    """`small` or `50k`."""

    @property
    def name(self) -> str:
        return f"c{self.connections}-{self.mode}-{self.prompt}"


CELLS = [
    Cell(connections=connections, mode=mode, prompt=prompt)
    for connections in (1, 16, 64, 256)
    for mode in ("whole", "stream")
    for prompt in ("small", "50k")
] + [Cell(connections=64, mode="paced", prompt="small")]


def prompt(num_bytes: int) -> str:
    """Words with the quotes and line ends of real text, the same each time."""
    drawn = random.Random(num_bytes)
    text = ""
    while len(text) < num_bytes:
        text += drawn.choice(WORDS) + " "
    return text[:num_bytes]


def body(cell: Cell, model: str) -> bytes:
    system = "You are a careful programmer. Answer in one sentence."
    user = prompt(90 if cell.prompt == "small" else 50_000)
    return json.dumps(
        {
            "model": model,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": user},
            ],
            "max_tokens": 256,
            "temperature": 0.2,
            "stream": cell.mode != "whole",
        },
        separators=(",", ":"),
    ).encode()


class Arena:
    """The mock, the running targets and where they keep their files."""

    def __init__(self, given: argparse.Namespace, folder: Path, stack: ExitStack) -> None:
        self.given, self.folder = given, folder
        self.tools = tools.build(folder)
        self._num_folders = 0
        self.num_answers = self.num_records = 0
        mock, self.mock_port = tools.start_mock(self.tools, given.load_core)
        stack.callback(mock.stop)
        self.targets: dict[str, Target] = {}
        stack.callback(self._stop_all)
        for name in given.targets:
            self._start(name)

    def _start(self, name: str) -> None:
        began = time.perf_counter()
        self._num_folders += 1
        folder = self.folder / f"{name}-{self._num_folders}"
        folder.mkdir()
        start = TARGETS[name]
        target = start(self.given.peers, folder, self.mock_port, self.given.gateway_core)
        self.targets[name] = target
        self._warm(target)
        if target.process:
            target.process.pause()
        print(f"  {name:10} {target.version:10} ready after {time.perf_counter() - began:5.1f} s")

    def _warm(self, target: Target) -> None:
        for mode in ("whole", "stream"):
            cell = Cell(connections=4, mode=mode, prompt="small")
            self._load(target, cell, seconds=0.2, warm=1.0)

    def _stop_all(self) -> None:
        for target in self.targets.values():
            if target.process:
                target.process.stop()

    def measure(self, name: str, cell: Cell) -> dict[str, Any]:
        """One run: the load generator's figures, with the CPU of each answer."""
        target = self.targets[name]
        process = target.process
        if process:
            process.resume()
        pace = int(self.given.pace * 1000) if cell.mode == "paced" else 0
        targets.get(self.mock_port, f"/pace/{pace}/{pace}")
        before = process.cpu_s() if process else (0.0, 0.0)
        run = self._load(target, cell, seconds=self.given.seconds, warm=self.given.warm)
        began = time.perf_counter()
        if target.root:
            run["recorded"] = self._caught_up(target)
            run["behind_s"] = round(time.perf_counter() - began, 3)
        if process:
            used = zip(("cpu_us", "first_process_cpu_us"), process.cpu_s(), before, strict=True)
            for key, now, then in used:
                run[key] = round((now - then) / max(run["whole"], 1) * 1e6, 1)
            run["rss_mb"] = round(sum(stat.rss_mb for stat in process.tree()), 1)
            process.pause()
        if target.root and targets.folder_mb(target.root) > FRESH_STORE_MB:
            self._start_anew(target)
        return run

    def _load(self, target: Target, cell: Cell, seconds: float, warm: float) -> dict[str, Any]:
        asked = self.folder / "body.json"
        asked.write_bytes(body(cell, target.model))
        run = tools.load(
            self.tools,
            port=target.port,
            path=target.path,
            body=asked,
            headers=target.headers,
            expect=["The retry delay", "file."] if cell.mode == "whole" else [" retry", "[DONE]"],
            connections=cell.connections,
            seconds=seconds,
            warm=warm,
            core=self.given.load_core,
        )
        target.answers += run["whole"]
        return run

    def _caught_up(self, target: Target) -> bool:
        root = target.root
        assert root is not None
        is_whole = until(lambda: ledger.num_calls(root) >= target.answers, CAUGHT_UP_S, 0.1)
        if not is_whole:
            got = ledger.num_calls(root)
            print(f"    only {got} of {target.answers} answers are recorded", flush=True)
        return is_whole

    def _start_anew(self, target: Target) -> None:
        self.settle(target)
        if target.root:
            shutil.rmtree(target.root, ignore_errors=True)
        self._start(target.name)

    def settle(self, target: Target) -> None:
        """Ends this gateway and adds what it answered and recorded to the totals."""
        if target.process and target.root:
            target.process.stop()
            self.num_answers += target.answers
            self.num_records += ledger.num_calls(target.root)


def measured(
    arena: Arena, given: argparse.Namespace, cells: Sequence[Cell]
) -> list[dict[str, Any]]:
    """All runs, those of an earlier start of this bench (--log) included."""
    runs: list[dict[str, Any]] = []
    if given.log and given.log.exists():
        runs = [json.loads(line) for line in given.log.read_text().splitlines()]
    done = {(run["round"], run["cell"], run["target"]) for run in runs}
    shuffled = random.Random(given.seed)
    for number in range(given.rounds):
        for cell in shuffled.sample(cells, len(cells)):
            for name in shuffled.sample(given.targets, len(given.targets)):
                is_too_slow = name in SLOW and cell.connections > MAX_SLOW_CONNECTIONS
                if (number, cell.name, name) in done or (number and is_too_slow):
                    continue
                run = {"round": number, "cell": cell.name, "target": name}
                try:
                    run |= arena.measure(name, cell)
                except Exception as error:
                    print(f"  {name} {cell.name}: {error}", file=sys.stderr, flush=True)
                    run["failed"] = str(error)
                runs.append(run)
                _show(run)
                if given.log:
                    with given.log.open("a") as log:
                        log.write(json.dumps(run) + "\n")
    return runs


def _show(run: dict[str, Any]) -> None:
    if "failed" in run:
        return
    errors = sum(run["errors"].values())
    latency, first = run["latency_ms"], run["first_byte_ms"]
    print(
        f"  {run['round']} {run['cell']:18} {run['target']:10} {run['rps']:9.0f}/s"
        f"  p50 {latency.get('p50', 0):8.3f}  p99 {latency.get('p99', 0):8.3f} ms"
        f"  first p50 {first.get('p50', 0):8.3f}  p99 {first.get('p99', 0):8.3f} ms"
        f"  CPU {run.get('cpu_us', 0):7.0f} us"
        f" ({run.get('first_process_cpu_us', 0):.0f})" + (f"  {errors} ERRORS" if errors else ""),
        flush=True,
    )


Metric = Callable[[dict[str, Any]], float]
METRICS: dict[str, Metric] = {
    "rps": lambda run: run["rps"],
    "p50_ms": lambda run: run["latency_ms"]["p50"],
    "p99_ms": lambda run: run["latency_ms"]["p99"],
    "first_p50_ms": lambda run: run["first_byte_ms"]["p50"],
    "first_p99_ms": lambda run: run["first_byte_ms"]["p99"],
    "cpu_us": lambda run: run["cpu_us"],
    "first_process_cpu_us": lambda run: run["first_process_cpu_us"],
}


class Figures:
    """Medians over the rounds, of values and of what is compared within a round."""

    def __init__(self, runs: Sequence[dict[str, Any]]) -> None:
        self._runs = [run for run in runs if "failed" not in run and run["answers"]]
        self._by = {(run["cell"], run["target"], run["round"]): run for run in self._runs}
        self.rounds = sorted({run["round"] for run in runs})

    def value(self, cell: str, target: str, metric: str) -> float | None:
        return self._median(lambda number: METRICS[metric](self._by[cell, target, number]))

    def added(self, cell: str, metric: str, target: str, to: str = "direct") -> float | None:
        return self._median(
            lambda number: (
                METRICS[metric](self._by[cell, target, number])
                - METRICS[metric](self._by[cell, to, number])
            )
        )

    def ratio(self, cell: str, target: str, peer: str) -> float | None:
        """Requests a second against those of the peer."""
        return self._median(
            lambda number: (
                self._by[cell, target, number]["rps"] / self._by[cell, peer, number]["rps"]
            )
        )

    def _median(self, of_round: Callable[[int], float]) -> float | None:
        values = []
        for number in self.rounds:
            try:
                values.append(of_round(number))
            except (KeyError, ZeroDivisionError):
                continue
        return round(statistics.median(values), 4) if values else None

    def errors(self, target: str) -> int:
        return sum(sum(run["errors"].values()) for run in self._runs if run["target"] == target)

    def table(self, cells: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for cell in cells:
            table[cell] = {}
            for name in names:
                row = {metric: self.value(cell, name, metric) for metric in METRICS}
                row["added_p50_ms"] = self.added(cell, "p50_ms", name)
                row["added_first_p99_ms"] = self.added(cell, "first_p99_ms", name)
                table[cell][name] = {key: value for key, value in row.items() if value is not None}
        return table


def bar(name: str, must: str, got: float | None, holds: Callable[[float], bool]) -> dict[str, Any]:
    """A bar that could not be measured does not hold."""
    return {"name": name, "must": must, "got": got, "holds": got is not None and holds(got)}


def bars(figures: Figures, cells: Sequence[Cell], arena: Arena) -> list[dict[str, Any]]:
    found = [
        bar(
            "requests/s at 16 against LiteLLM",
            ">= 50x LiteLLM's requests/s at 16",
            figures.ratio("c16-whole-small", "twin", "litellm"),
            lambda got: got >= 50,
        ),
        bar(
            "added p50 at 1, ms",
            "added p50 <= 0.4 ms at 1",
            figures.added("c1-whole-small", "p50_ms", "twin"),
            lambda got: got <= 0.4,
        ),
        bar(
            "CPU a request at 16, us",
            "<= 120 us CPU a request at 16",
            figures.value("c16-whole-small", "twin", "cpu_us"),
            lambda got: got <= 120,
        ),
    ]
    against = {
        c.name: figures.ratio(c.name, "twin", "tensorzero") for c in cells if c.mode != "paced"
    }
    known = {cell: ratio for cell, ratio in against.items() if ratio is not None}
    worst = min(known, key=lambda cell: known[cell]) if known else None
    is_complete = len(known) == len(against)
    found.append(
        bar(
            f"requests/s against TensorZero, worst of {len(known)} cells: {worst}",
            "ahead of TensorZero embedded in every cell",
            known[worst] if worst else None,
            lambda got: got > 1 and is_complete,
        )
    )
    found.append(
        bar(
            "streams/s at 16 against LiteLLM",
            "streaming >= 10x LiteLLM",
            figures.ratio("c16-stream-small", "twin", "litellm"),
            lambda got: got >= 10,
        )
    )
    found.append(
        bar(
            "p99 of time to first token added at 64, ms, paced",
            "p99 of time to first token added <= 2 ms at 64",
            figures.added("c64-paced-small", "first_p99_ms", "twin"),
            lambda got: got <= 2,
        )
    )
    found.append(bar("errors", "0", figures.errors("twin"), lambda got: got == 0))
    lost = abs(arena.num_answers - arena.num_records) if arena.num_answers else None
    found.append(
        bar(
            f"records missing or too many, of {arena.num_answers} whole answers",
            "0",
            lost,
            lambda got: got == 0,
        )
    )
    return found


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--install", type=Path, metavar="PEERS", help="install the peers there")
    parser.add_argument(
        "--peers", type=Path, default=Path("peers"), help="where they are installed"
    )
    parser.add_argument("--quick", action="store_true", help="four cells, one short round")
    parser.add_argument("--targets", default=",".join(TARGETS), help="names, with commas between")
    parser.add_argument("--cells", default="", help="globs such as c16-*-small,c1-*")
    parser.add_argument("--seconds", type=float, help="of each run; default 2, quick 0.7")
    parser.add_argument("--warm", type=float, default=0.3, help="seconds before each run")
    parser.add_argument("--rounds", type=int, help="default 3, quick 1")
    parser.add_argument("--pace", type=float, default=5.0, help="ms before each paced event")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument("--log", type=Path, help="JSON lines of all runs; continues where it ends")
    parser.add_argument(
        "--load-core", type=int, default=LOAD_CORE, help="for the mock and the load"
    )
    parser.add_argument("--gateway-core", type=int, default=GATEWAY_CORE)
    options = parser.parse_args(given)
    options.seconds = options.seconds or (0.7 if options.quick else 2.0)
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.targets = [name for name in TARGETS if name in options.targets.split(",")]
    options.peers = options.peers.resolve()
    return options


def chosen(given: argparse.Namespace) -> list[Cell]:
    globs = given.cells.split(",") if given.cells else (QUICK if given.quick else ["*"])
    return [c for c in CELLS if any(fnmatch.fnmatch(c.name, glob) for glob in globs)]


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    if options.install:
        targets.install(options.install.resolve())
        return 0
    cells = chosen(options)
    for name in list(options.targets):
        if not targets.is_installed(name, options.peers):
            print(f"{name} is not in {options.peers}: --install PEERS. Left out.", file=sys.stderr)
            options.targets.remove(name)
    began = time.perf_counter()
    with TemporaryDirectory(prefix="gateway-bench-") as folder, ExitStack() as stack:
        arena = Arena(options, Path(folder), stack)
        runs = measured(arena, options, cells)
        for target in arena.targets.values():
            arena.settle(target)
        kind, versions = arena.tools.kind, {n: t.version for n, t in arena.targets.items()}
    figures = Figures(runs)
    names = [cell.name for cell in cells]
    found = bars(figures, cells, arena)
    for one in found:
        print(
            f"{'holds' if one['holds'] else 'FAILS'}  {one['must']:50} {one['got']}  {one['name']}"
        )
    result = {
        "bench": "gateway",
        "versions": {
            **{name: version for name, version in versions.items() if version},
            "python": sys.version.split()[0],
            "load": kind,
        },
        "figures": {
            "quick": options.quick,
            "cpus": os.cpu_count(),
            "load_average": [round(value, 2) for value in os.getloadavg()],
            "rounds": options.rounds,
            "seconds": options.seconds,
            "pace_ms": options.pace,
            "took_s": round(time.perf_counter() - began),
            "errors": {name: figures.errors(name) for name in options.targets},
            "answers": arena.num_answers,
            "records": arena.num_records,
            "cells": figures.table(names, options.targets),
            "against": {
                peer: {cell: figures.ratio(cell, "twin", peer) for cell in names}
                for peer in options.targets
                if peer not in ("twin", "direct")
            },
        },
        "bars": found,
    }
    print(json.dumps(result))
    return 0 if all(one["holds"] for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
