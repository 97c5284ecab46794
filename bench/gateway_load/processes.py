"""Processes of a bench: started on one core, paused, measured and ended as a tree.

Linux only: reads /proc, pins with sched_setaffinity.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
LOAD_CORE, GATEWAY_CORE = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
"""Where mock and load run, and where the gateway; the same on a machine with one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """One line of /proc/PID/stat, what is needed of it."""

    pid: int
    parent: int
    session: int
    state: str
    cpu_s: float
    """Own and of children that ended."""
    rss_mb: float


def _stats() -> Iterator[Stat]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            yield Stat(
                pid=int(folder.name),
                state=fields[0],
                parent=int(fields[1]),
                session=int(fields[3]),
                cpu_s=sum(map(int, fields[11:15])) / TICKS,
                rss_mb=int(fields[21]) * PAGE / 1e6,
            )


class Process:
    """A program in a session of its own, on `cores`, with its output in `log`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cores: Sequence[int] = (),
        log: Path | None = None,
        folder: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        out: IO[bytes] | int = log.open("wb") if log else subprocess.DEVNULL
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            preexec_fn=pinned_to(cores),
        )
        if not isinstance(out, int):
            out.close()
        self.pid = self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def tree(self) -> list[Stat]:
        """The process, its descendants, and whatever else is in its session."""
        stats = [stat for stat in _stats() if stat.state != "Z"]
        pids = {self.pid} | {stat.pid for stat in stats if stat.session == self.pid}
        while more := {s.pid for s in stats if s.parent in pids} - pids:
            pids |= more
        return [stat for stat in stats if stat.pid in pids]

    def cpu_s(self) -> tuple[float, float]:
        """(of the whole tree, of the first process alone)"""
        tree = self.tree()
        alone = sum(stat.cpu_s for stat in tree if stat.pid == self.pid)
        return sum(stat.cpu_s for stat in tree), alone

    def rss_mb(self) -> float:
        """Of the first process alone."""
        return next((stat.rss_mb for stat in self.tree() if stat.pid == self.pid), 0.0)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for stat in self.tree():
            try:
                os.kill(stat.pid, number)
            except ProcessLookupError:
                continue

    def stop(self, grace_s: float = 15.0) -> int | None:
        """Asks it to end, waits, and kills what is left of the tree. Its exit code."""
        tree = self.tree()
        self.resume()
        if self.is_running:
            self._process.terminate()
            try:
                self._process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for stat in tree:
            if stat.pid != self.pid and any(now.pid == stat.pid for now in self.tree()):
                os.kill(stat.pid, signal.SIGKILL)
        return self._process.returncode

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log else ""


def pinned_to(cores: Sequence[int]) -> Callable[[], None]:
    """For `preexec_fn`; does nothing without cores."""
    return lambda: os.sched_setaffinity(0, cores) if cores else None


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def until(is_true: Callable[[], bool], seconds: float, pause_s: float = 0.05) -> bool:
    """Waits until `is_true`; False when it was not within `seconds`."""
    end = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > end:
            return False
        time.sleep(pause_s)
    return True


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
