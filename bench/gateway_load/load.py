"""load.c for a machine without a compiler: the same options and output, slower."""

import argparse
import asyncio
import json
import socket
import time
from collections import Counter
from pathlib import Path

MAX_ERRORS, DRAIN_S = 20_000, 60.0


class Run:
    """What all connections share: the request, the clock and the counts."""

    def __init__(self, given: argparse.Namespace) -> None:
        body = given.body.read_bytes()
        head = [
            f"POST {given.path} HTTP/1.1",
            f"host: 127.0.0.1:{given.port}",
            "accept: */*",
            "content-type: application/json",
            f"content-length: {len(body)}",
            *given.header,
        ]
        self.request = "\r\n".join(head).encode() + b"\r\n\r\n" + body
        self.given = given
        self.expected = [text.encode() for text in given.expect]
        self.errors = Counter(connect=0, reset=0, status=0, body=0, unanswered=0)
        self.whole = self.under_way = 0
        self.latencies_ms: list[float] = []
        self.firsts_ms: list[float] = []
        self.connected: list[Connection] = []
        self.is_started = False
        self.end = 0.0
        self.is_done = asyncio.Event()

    def start(self) -> None:
        self.is_started = True
        self.counting_from = time.perf_counter() + self.given.warm
        for connection in self.connected:
            connection.ask()

    def is_over(self) -> bool:
        now = time.perf_counter()
        if self.is_started and not self.end:
            measured, given = now - self.counting_from, self.given
            enough = measured >= given.seconds and len(self.latencies_ms) >= given.min
            most = max(given.max_seconds, given.seconds)
            if enough or measured >= most or self.errors.total() >= MAX_ERRORS:
                self.end = now
        return bool(self.end)

    def finished(self, began: float, first: float, error: str) -> None:
        now = time.perf_counter()
        self.under_way -= 1
        if error:
            self.errors[error] += 1
            return
        self.whole += 1
        if now >= self.counting_from and not self.end:
            self.latencies_ms.append((now - began) * 1000)
            self.firsts_ms.append(((first or now) - began) * 1000)


class Connection(asyncio.Protocol):
    def __init__(self, run: Run) -> None:
        self._run = run
        self._asking = False
        self._head = b""

    def connection_made(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._socket = transport.get_extra_info("socket")
        self._run.connected.append(self)
        if self._run.is_started:
            self.ask()

    def ask(self) -> None:
        if self._run.is_over():
            if not self._run.under_way:
                self._run.is_done.set()
            return
        self._input, self._head, self._asking, self._first = b"", b"", True, 0.0
        self._run.under_way += 1
        self._began = time.perf_counter()
        self._transport.write(self._run.request)

    def data_received(self, data: bytes) -> None:
        # Not a lasting option: Linux goes back to delayed acknowledgements by itself.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        if not self._asking:
            return
        self._input += data
        if not self._head:
            head, found, rest = self._input.partition(b"\r\n\r\n")
            if not found:
                return
            self._head, self._input = head.lower(), rest
        if self._input and not self._first:
            self._first = time.perf_counter()
        if self._is_complete():
            self._finish(self._fault())

    def _is_complete(self) -> bool:
        if b"transfer-encoding: chunked" in self._head:
            # Right for well-formed answers whose text holds no such line; only load.c reads frames.
            return self._input.endswith(b"\r\n0\r\n\r\n")
        at = self._head.find(b"\ncontent-length:")
        return at >= 0 and len(self._input) >= int(self._head[at + 16 :].split(b"\r", 1)[0])

    def _fault(self) -> str:
        if b" 200" not in self._head[:13]:
            return "status"
        return "" if all(text in self._input for text in self._run.expected) else "body"

    def _finish(self, error: str) -> None:
        self._asking = False
        self._run.finished(self._began, self._first, error)
        if b"connection: close" in self._head:
            self._transport.close()
        else:
            self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        if self._asking:
            self._asking = False
            self._run.finished(self._began, 0.0, "reset")
        asyncio.get_running_loop().create_task(connect(self._run))


async def connect(run: Run) -> None:
    while not run.is_over():
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: Connection(run), "127.0.0.1", run.given.port
            )
            return
        except OSError:
            run.errors["connect"] += 1
            await asyncio.sleep(0.1)
    if not run.under_way:
        run.is_done.set()


def times(values: list[float]) -> dict[str, float]:
    values = sorted(values)
    if not values:
        return {}
    last = len(values) - 1
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {
        n: round(values[min(last, int(s * len(values)))], 4) for n, s in shares.items() if values
    }


async def main(given: argparse.Namespace) -> None:
    run = Run(given)
    for _ in range(given.connections):
        await connect(run)
    run.start()
    while not run.is_over():
        await asyncio.sleep(0.05)
    if run.under_way:
        try:
            await asyncio.wait_for(run.is_done.wait(), DRAIN_S)
        except TimeoutError:
            run.errors["unanswered"] = run.under_way
    measured = run.end - run.counting_from
    print(
        json.dumps(
            {
                "seconds": round(measured, 4),
                "answers": len(run.latencies_ms),
                "whole": run.whole,
                "rps": round(len(run.latencies_ms) / measured, 2),
                "errors": run.errors,
                "latency_ms": times(run.latencies_ms),
                "first_byte_ms": times(run.firsts_ms),
            }
        )
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("body", type=Path)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--warm", type=float, default=0.3)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--max-seconds", type=float, default=0)
    parser.add_argument("--min", type=int, default=0)
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--expect", action="append", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    try:
        from uvloop import run as run_loop
    except ImportError:
        from asyncio import run as run_loop
    run_loop(main(arguments()))
