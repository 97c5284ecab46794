"""Follows a run to the last of its processes, and says how it ended.

Owns the limits that the kernel does not hold by itself: the clock, memory of all processes
together, the number of files, the amount of output. How it was started is for `launch`.
"""

import contextlib
import os
import re
import select
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

from twin.coding.sandbox import cgroups
from twin.coding.sandbox.launch import Launched
from twin.coding.sandbox.limits import Cause, Ended, Limits
from twin.coding.sandbox.watch import cpu_seconds, descendants, num_files, private_bytes
from twin.records import SandboxLevel

LOOK_S: Final = 0.05
LOOK_FILES_S: Final = 0.5
DRAIN_S: Final = 2.0
"""For what is still in the pipes when every process is gone."""
END_S: Final = 30.0
"""For the outer half of `confine` to end what forks as fast as it can."""
KEPT_BYTES: Final = 64 << 10
CHUNK: Final = 1 << 16


class Listener(Protocol):
    """Follows a run line by line, through the descriptor that the job's environment names as
    `TWIN_RESULTS`."""

    def hear(self, line: bytes) -> None:
        """One line, without its end."""

    def deadline(self) -> float:
        """When to give the run up, by `time.monotonic()`; asked again after every line."""


class Following:
    """One run. Everything it opens is closed by the caller's stack."""

    def __init__(
        self,
        level: SandboxLevel,
        run: Launched,
        limits: Limits,
        listener: Listener | None,
        stack: contextlib.ExitStack,
    ) -> None:
        self.level = level
        self.run = run
        self.limits = limits
        self.listener = listener
        self.stack = stack
        self.output = bytearray()
        self.num_output = self.num_results = 0
        self.lines = bytearray()
        self.status = bytearray()
        self.info = bytearray()
        self.first = -1
        self.peak = 0
        self.cpu_s = 0.0
        self.verdict: tuple[Cause, str] | None = None

    def to_its_end(self, started: float) -> Ended:
        """How the run ended, which began when `time.monotonic()` was `started`."""
        try:
            self._follow(started)
        finally:
            code = self._end()
        wall_s = time.monotonic() - started
        self._drain()
        if self.verdict is None and self.run.group is not None and self.run.group.has_run_out():
            self.verdict = self._out_of_memory()
        cause, detail = self.verdict or self._how(code)
        return Ended(
            level=self.level,
            limiter=cgroups.limiter(),
            cause=cause,
            code=code - 128 if cause == "signal" else max(code, 0) if cause == "exit" else 0,
            detail=detail,
            output=bytes(self.output),
            wall_s=wall_s,
            cpu_s=self.cpu_s,
            peak_bytes=self.peak,
        )

    # --- while it runs

    def _follow(self, started: float) -> None:
        last = started + self.limits.wall_s
        look = files = started
        with selectors.DefaultSelector() as selector:
            gone = os.pidfd_open(self.run.process.pid)
            self.stack.callback(os.close, gone)
            selector.register(gone, selectors.EVENT_READ, None)
            for reader, hear in self._ears():
                os.set_blocking(reader, False)
                selector.register(reader, selectors.EVENT_READ, hear)
            while self.verdict is None:
                now = time.monotonic()
                if now >= last:
                    self.verdict = ("wall", f"ran longer than {self.limits.wall_s:g} s")
                    break
                if self.listener is not None and now >= self.listener.deadline():
                    self.verdict = ("stopped", "was given up by who followed it")
                    break
                if now >= look:
                    self._look_at_processes(self.run.process.pid)
                    look = now + LOOK_S
                if now >= files:
                    self._look_at_files(self.run.process.pid)
                    files = now + LOOK_FILES_S
                for key, _ in selector.select(LOOK_S):
                    if key.data is None:
                        return
                    chunk = os.read(key.fd, CHUNK)
                    key.data(chunk)
                    if not chunk:
                        selector.unregister(key.fd)

    def _ears(self) -> Iterator[tuple[int, Callable[[bytes], None]]]:
        yield self.run.outputs, self._hear_output
        yield self.run.results, self._hear_results
        yield self.run.said, self.status.extend
        yield self.run.told, self._hear_bubblewrap

    def _hear_output(self, chunk: bytes) -> None:
        self.num_output += len(chunk)
        self.output += chunk
        del self.output[:-KEPT_BYTES]
        if self.num_output > self.limits.output_bytes:
            self.verdict = ("output", f"printed more than {_mib(self.limits.output_bytes)}")

    def _hear_results(self, chunk: bytes) -> None:
        self.num_results += len(chunk)
        if self.num_results > self.limits.output_bytes:
            self.verdict = (
                "output", f"wrote more than {_mib(self.limits.output_bytes)} of results"
            )  # fmt: skip
            return
        first, *others = chunk.split(b"\n")
        self.lines += first
        for following in others:
            if self.listener is not None:
                self.listener.hear(bytes(self.lines))
            self.lines = bytearray(following)

    def _hear_bubblewrap(self, chunk: bytes) -> None:
        """The number of the namespace's first process, which is gone when all others are."""
        self.info += chunk
        found = re.search(rb'"child-pid": (\d+)', self.info)
        if found and self.first < 0:
            with contextlib.suppress(ProcessLookupError):
                self.first = os.pidfd_open(int(found[1]))
                self.stack.callback(os.close, self.first)

    def _look_at_processes(self, pid: int) -> None:
        pids = descendants(pid)
        seen = private_bytes(pids)
        self.cpu_s = max(self.cpu_s, cpu_seconds(pids))
        self.peak = max(self.peak, seen)
        group = self.run.group
        if seen > self.limits.memory_bytes or (group is not None and group.has_run_out()):
            self.verdict = self._out_of_memory()

    def _out_of_memory(self) -> tuple[Cause, str]:
        return "memory", f"held more than {_mib(self.limits.memory_bytes)} in memory"

    def _look_at_files(self, pid: int) -> None:
        files, size = self._files(pid)
        if files > self.limits.num_files:
            self.verdict = ("disk", f"made more than {self.limits.num_files:,} files")
        elif size > self.limits.disk_bytes:
            self.verdict = ("disk", f"wrote more than {_mib(self.limits.disk_bytes)}")

    def _files(self, pid: int) -> tuple[int, int]:
        """Files and bytes in the box; a file system of its own holds to its size by itself."""
        if self.level == "landlock":
            return num_files(Path(self.run.box), self.limits.num_files)
        if not self.status:  # before it is through, its root is still this machine's
            return 0, 0
        for inside in descendants(pid):
            with contextlib.suppress(OSError):
                room = os.statvfs(f"/proc/{inside}/root{self.run.box}")
                return room.f_files - room.f_ffree, 0
        return 0, 0

    # --- the end

    def _end(self) -> int:
        """Ends whatever runs, and gives the exit code."""
        process = self.run.process
        if self.level == "landlock":
            # The outer half ends all others first; it alone knows them.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
            limit = time.monotonic() + END_S
            while not _has_ended(process.pid) and time.monotonic() < limit:
                time.sleep(0.005)
        process.kill()
        code = process.wait()
        if self.first >= 0:
            select.select([self.first], [], [], END_S)
        return code

    def _drain(self) -> None:
        limit = time.monotonic() + DRAIN_S
        for reader, hear in self._ears():
            os.set_blocking(reader, False)
            while time.monotonic() < limit:
                try:
                    chunk = os.read(reader, CHUNK)
                except BlockingIOError:
                    # Every process is gone, yet one of ours that was forked meanwhile may hold it.
                    break
                if not chunk:
                    break
                hear(chunk)

    def _how(self, code: int) -> tuple[Cause, str]:
        began, _, failed = bytes(self.status).decode("utf-8", "replace").partition("\n")
        if began != "go":
            cause, _, words = (began + "\n" + failed).partition("\n")
            said = self.output.decode("utf-8", "replace").strip().splitlines()
            detail = words.strip() or (said[-1] if said else f"ended with code {code}")
            if cause == "disk":
                return "disk", f"has a tree that does not fit in {_mib(self.limits.disk_bytes)}"
            return "setup", detail
        if failed:
            return "setup", failed.partition("\n")[2]
        if code > 128:
            return "signal", ""
        if code < 0:
            return "setup", f"was ended from outside by signal {-code}"
        return "exit", ""


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 20):,.0f} MiB"
