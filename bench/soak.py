"""200,000 requests with faults mixed in: does memory stay, and is every answer recorded?

    python bench/soak.py
    python bench/soak.py --quick

A real `twin serve` stands between clients and an upstream that both misbehave: status 500 and 429,
connections reset before, in the middle of a body or of a stream, stalls, HTML and truncated JSON
for answers, events split anywhere; clients that hang up, send half of a JSON document or far too
much. Meanwhile the store is locked by another program, and the recorder is killed. Memory is that
of the gateway's process, from a tenth of the way on. A record is lost where a client received an
answer whole, whatever its status, and the store does not hold the call of its `x-request-id`. The
last line is JSON.
"""

import argparse
import asyncio
import json
import os
import signal
import sqlite3
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gateway_load import ledger
from gateway_load.clients import Client, Tally, requests
from gateway_load.processes import (
    GATEWAY_CORE,
    LOAD_CORE,
    Process,
    free_port,
    listens,
    until,
)

MAX_GROWTH_MB = 20.0
CAUGHT_UP_S = 180.0
SAMPLE_S = 0.5
CONFIG = """\
[models.mock]
provider = "vllm"
base_url = "http://127.0.0.1:{port}/v1"
first_byte_s = 0.5
idle_s = 0.5
deadline_s = 20

[models.broken]
provider = "vllm"
base_url = "http://127.0.0.1:{port}/v1"
retries = 0
"""


@dataclass
class Memory:
    """Samples of (requests asked, resident MB)."""

    samples: list[tuple[int, float]] = field(default_factory=list)

    def growth_mb(self, warm: int) -> tuple[float, float, float]:
        """(median after the warm-up, median at the end, peak); each median over a tenth."""
        after = [mb for asked, mb in self.samples if asked >= warm]
        tenth = max(3, len(after) // 10)
        if len(after) < 2 * tenth:
            raise SystemExit("Too few samples of memory: ask for more requests.")
        return statistics.median(after[:tenth]), statistics.median(after[-tenth:]), max(after)


def start_gateway(folder: Path, upstream: int, core: int) -> tuple[Process, int]:
    config, port = folder / "twin.toml", free_port()
    config.write_text(CONFIG.format(port=upstream))
    command = [str(Path(sys.executable).with_name("twin")), "--config", str(config), "serve"]
    process = Process(
        [*command, "--port", str(port)], cores=[core], log=folder / "log", folder=folder
    )
    if not until(lambda: listens(port) or not process.is_running, 60) or not process.is_running:
        raise SystemExit(f"twin serve did not start: {process.said()[-800:]}")
    return process, port


def start_upstream(core: int) -> tuple[Process, int]:
    port = free_port()
    command = [sys.executable, "-m", "gateway_load.faulty", str(port)]
    process = Process(command, cores=[core], folder=Path(__file__).parent)
    if not until(lambda: listens(port), 20):
        raise SystemExit("The upstream did not start.")
    return process, port


def recorder_of(gateway: Process) -> int | None:
    """Its process id."""
    for stat in gateway.tree():
        try:
            said = Path(f"/proc/{stat.pid}/cmdline").read_bytes()
        except OSError:
            continue
        if stat.pid != gateway.pid and b"recorder" in said:
            return stat.pid
    return None


def lock_store(root: Path, seconds: float) -> None:
    """Holds the store's only writer's place, as a careless program would."""
    path = next((root / ".twin").glob("*.db"))
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as store:
        store.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        store.execute("ROLLBACK")


class Soak:
    """The run: clients, disturbances and samples, all in one event loop."""

    def __init__(self, given: argparse.Namespace, root: Path, gateway: Process, port: int) -> None:
        self.given, self.root, self.gateway, self.port = given, root, gateway, port
        self.tally = Tally()
        self.memory = Memory()
        self.disturbed: list[str] = []

    async def run(self) -> None:
        asked = requests(self.given.requests, self.given.seed)
        beside = [asyncio.create_task(self._sample()), asyncio.create_task(self._disturb())]
        clients = [Client(self.port, self.tally) for _ in range(self.given.clients)]
        await asyncio.gather(*(client.work(asked) for client in clients))
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)

    async def _sample(self) -> None:
        began, said = time.perf_counter(), 0
        while True:
            asked = self.tally.num_asked
            self.memory.samples.append((asked, self.gateway.rss_mb()))
            if not self.gateway.is_running:
                raise SystemExit(f"The gateway ended: {self.gateway.said()[-800:]}")
            if asked - said >= self.given.requests // 20:
                said = asked
                rate, mb = asked / (time.perf_counter() - began), self.memory.samples[-1][1]
                print(f"  {asked:8,} requests {rate:7.0f}/s {mb:7.1f} MB", flush=True)
            await asyncio.sleep(SAMPLE_S)

    async def _disturb(self) -> None:
        await self._after(0.3)
        print(f"  the store is locked for {self.given.lock_s:.0f} s", flush=True)
        await asyncio.to_thread(lock_store, self.root, self.given.lock_s)
        self.disturbed.append("store locked")
        for share in (0.5, 0.7):
            await self._after(share)
            while (recorder := recorder_of(self.gateway)) is None:
                await asyncio.sleep(0.1)  # it is being started anew
            print("  the recorder is killed", flush=True)
            os.kill(recorder, signal.SIGKILL)
            self.disturbed.append("recorder killed")

    async def _after(self, share: float) -> None:
        while self.tally.num_asked < self.given.requests * share:
            await asyncio.sleep(0.1)


def outcomes(tally: Tally) -> dict[str, dict[str, int]]:
    """Kind of request -> how its answers ended -> how many."""
    found: dict[str, dict[str, int]] = {}
    for name, count in sorted(tally.answers.items()):
        kind, _, outcome = name.partition(" ")
        found.setdefault(kind, {})[outcome] = count
    return found


def bar(name: str, must: str, got: float, holds: bool) -> dict[str, Any]:
    return {"name": name, "must": must, "got": got, "holds": holds}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="5,000 requests")
    parser.add_argument("--requests", type=int)
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--lock-s", type=float, help="how long the store is locked")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=LOAD_CORE, help="for upstream and clients")
    parser.add_argument("--gateway-core", type=int, default=GATEWAY_CORE)
    given = parser.parse_args(arguments)
    given.requests = given.requests or (5_000 if given.quick else 200_000)
    given.lock_s = given.lock_s or (2.0 if given.quick else 30.0)
    os.sched_setaffinity(0, [given.load_core])
    began = time.perf_counter()
    with TemporaryDirectory(prefix="soak-") as folder:
        root = Path(folder)
        upstream, upstream_port = start_upstream(given.load_core)
        try:
            gateway, port = start_gateway(root, upstream_port, given.gateway_core)
            try:
                soak = Soak(given, root, gateway, port)
                asyncio.run(soak.run())
                took_s = time.perf_counter() - began
                received = soak.tally.whole + soak.tally.abandoned
                until(lambda: not ledger.missing(root, received), CAUGHT_UP_S, 1.0)
                behind_s = time.perf_counter() - began - took_s
            finally:
                exit_code = gateway.stop(60)
        finally:
            upstream.stop()
        lost = ledger.missing(root, soak.tally.whole)
        unrecorded = ledger.missing(root, soak.tally.abandoned)
        num_records = ledger.num_calls(root)
        faults = [line for line in gateway.said().splitlines() if "Traceback" in line]
    return report(given, soak, lost, unrecorded, num_records, took_s, behind_s, exit_code, faults)


def report(
    given: argparse.Namespace,
    soak: Soak,
    lost: list[str],
    unrecorded: list[str],
    num_records: int,
    took_s: float,
    behind_s: float,
    exit_code: int | None,
    faults: list[str],
) -> int:
    tally = soak.tally
    first_mb, last_mb, peak_mb = soak.memory.growth_mb(given.requests // 10)
    growth_mb = round(last_mb - first_mb, 1)
    print(f"\n{'kind':22}{'asked':>8}   how the answers ended")
    for kind, ended in outcomes(tally).items():
        shown = ", ".join(f"{count} {outcome}" for outcome, count in ended.items())
        print(f"{kind:22}{tally.num_asked_kind[kind]:8}   {shown}")
    silent = sum(count for name, count in tally.answers.items() if name.endswith(" silent"))
    broken = sum(tally.answers[f"{kind} broken"] for kind in ("whole", "stream", "large"))
    whole = f"of {len(tally.whole):,} answers received whole"
    bars = [
        bar("memory growth after warm-up, MB", "< 20 MB", growth_mb, growth_mb < MAX_GROWTH_MB),
        bar(f"lost records, {whole}", "no lost record", len(lost), not lost),
        bar("answers without a number", "0", tally.without_number, not tally.without_number),
        bar(
            f"unrecorded, of {len(tally.abandoned):,} calls hung up on after their head",
            "0",
            len(unrecorded),
            not unrecorded,
        ),
        bar("requests without any end within a minute", "0", silent, not silent),
        bar("broken answers to requests without a fault of their own", "0", broken, not broken),
        bar("tracebacks in the log", "0", len(faults), not faults),
    ]
    for one in bars:
        print(
            f"{'holds' if one['holds'] else 'FAILS'}  {one['name']}: {one['got']} ({one['must']})"
        )
    figures = {
        "quick": given.quick,
        "requests": given.requests,
        "clients": given.clients,
        "requests_per_s": round(given.requests / took_s),
        "took_s": round(took_s),
        "behind_s": round(behind_s, 1),
        "records": num_records,
        "memory_mb": {"warm": round(first_mb, 1), "end": round(last_mb, 1), "peak": round(peak_mb)},
        "disturbed": soak.disturbed,
        "store_locked_s": given.lock_s,
        "exit_code": exit_code,
        "outcomes": outcomes(tally),
    }
    versions = {"cognitive-twin": version("cognitive-twin"), "python": sys.version.split()[0]}
    print(json.dumps({"bench": "soak", "versions": versions, "figures": figures, "bars": bars}))
    return 0 if all(one["holds"] for one in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
