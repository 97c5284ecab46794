"""Runs somebody else's code where it can do no harm, within limits, and says how it ended.

Owns the choice of the level (`records.SandboxLevel`), the life of one run from its start to the
last of its processes, and the limits that the kernel does not hold by itself: the clock, memory of
all processes together, the number of files, the amount of output. Knows nothing of tests or
repositories. It guards against accidents and rude test suites, not against an attack on the kernel.
"""

import contextlib
import json
import os
import platform
import re
import secrets
import select
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol

from twin.coding.sandbox import mounts, syscalls
from twin.coding.sandbox.limits import LEVELS, Cause, Ended, Job, Limits
from twin.coding.sandbox.watch import cpu_seconds, descendants, num_files, private_bytes
from twin.errors import MissingRequirement
from twin.records import SandboxLevel

CONFINE: Final = Path(__file__).with_name("confine.py")
LOOK_S: Final = 0.05
LOOK_FILES_S: Final = 0.5
DRAIN_S: Final = 2.0
"""For what is still in the pipes when every process is gone."""
END_S: Final = 30.0
"""For the outer half of `confine` to end what forks as fast as it can."""
KEPT_BYTES: Final = 64 << 10
CHUNK: Final = 1 << 16
UIDS: Final = range(1 << 29, 1 << 30)
"""Of nobody on any machine. One at random for each run started by root: the kernel counts a user's
processes over all of them."""

MISSING: Final = (
    "Code of others runs only in a sandbox, and this machine offers none: {why}. Install "
    "bubblewrap (Debian: `apt install bubblewrap`) where user namespaces are allowed, or use a "
    "Linux kernel with Landlock (5.13 or newer)."
)


class Listener(Protocol):
    """Follows a run line by line, through the descriptor that the job's environment names as
    `TWIN_RESULTS`."""

    def hear(self, line: bytes) -> None:
        """One line, without its end."""

    def deadline(self) -> float:
        """When to give the run up, by `time.monotonic()`; asked again after every line."""


class Sandbox:
    """One level of confinement; `run` as often as needed, from any thread."""

    def __init__(self, level: SandboxLevel) -> None:
        self.level = level
        self._program = shutil.which("bwrap") or ""

    def run(self, job: Job, listener: Listener | None = None) -> Ended:
        """Runs a command to its end and leaves nothing of it behind.

        Raises OSError where this program itself lacks descriptors, processes or disk.
        """
        with contextlib.ExitStack() as stack:
            return _Run(self.level, self._program, job, listener, stack).whole()


def open_sandbox(wanted: SandboxLevel | None = None) -> Sandbox:
    """The strongest sandbox that works here, or the one asked for.

    Each level is tried with a real command before it is trusted. Raises MissingRequirement where
    none works, and where the one asked for does not.
    """
    why = []
    for level in (wanted,) if wanted else LEVELS:
        fault = fault_of(level)
        if fault is None:
            return Sandbox(level)
        why.append(f"{level} {fault}")
    raise MissingRequirement(MISSING.format(why="; ".join(why)))


@lru_cache
def fault_of(level: SandboxLevel) -> str | None:
    """Why a level does not work on this machine, None where it does."""
    if sys.platform != "linux" or not syscalls.is_supported():
        return f"needs Linux on x86-64 or ARM64, and this is {sys.platform} {platform.machine()}"
    if level == "bubblewrap" and not shutil.which("bwrap"):
        return "is not installed"
    python = Path(sys.executable)
    job = Job(
        command=(str(python), "-I", "-S", "-c", "print('alive')"),
        tree=b"",
        limits=Limits(wall_s=20),
    )
    ended = Sandbox(level).run(job)
    if ended.is_ok and ended.output == b"alive\n":
        return None
    said = ended.output.decode("utf-8", "replace").strip().splitlines()
    return f"cannot be used ({ended.detail or (said[-1] if said else ended.cause)})"


@dataclass
class _Pipe:
    """A pipe from the run to this program."""

    reader: int
    writer: int

    @classmethod
    def made(cls, stack: contextlib.ExitStack) -> "_Pipe":
        pipe = cls(*os.pipe())
        stack.callback(os.close, pipe.reader)
        stack.callback(pipe.close_writer)
        return pipe

    def close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1


class _Run:
    """One run. Everything it opens is closed by the caller's stack."""

    def __init__(
        self,
        level: SandboxLevel,
        program: str,
        job: Job,
        listener: Listener | None,
        stack: contextlib.ExitStack,
    ) -> None:
        self.level = level
        self.program = program
        self.job = job
        self.listener = listener
        self.stack = stack
        self.limits = job.limits
        self.output = bytearray()
        self.num_output = self.num_results = 0
        self.lines = bytearray()
        self.status = bytearray()
        self.info = bytearray()
        self.first = -1
        self.peak = 0
        self.cpu_s = 0.0
        self.verdict: tuple[Cause, str] | None = None
        self.box = ""
        first = job.command[0]
        self.python = first if Path(first).name.startswith("python") else sys.executable
        self.visible = [*job.visible, CONFINE, *mounts.interpreter(Path(self.python))]

    # --- the start

    def whole(self) -> Ended:
        started = time.monotonic()
        pipes = [_Pipe.made(self.stack) for _ in range(4)]
        self.outputs, self.results, self.said, self.told = pipes
        process = self._start()
        for pipe in pipes:
            pipe.close_writer()
        try:
            self._follow(process, started)
        finally:
            code = self._end(process)
        wall_s = time.monotonic() - started
        self._drain()
        cause, detail = self.verdict or self._how(code)
        return Ended(
            level=self.level,
            cause=cause,
            code=code - 128 if cause == "signal" else max(code, 0) if cause == "exit" else 0,
            detail=detail,
            output=bytes(self.output),
            wall_s=wall_s,
            cpu_s=self.cpu_s,
            peak_bytes=self.peak,
        )

    def _start(self) -> subprocess.Popen[bytes]:
        uid = UIDS[secrets.randbelow(len(UIDS))] if os.geteuid() == 0 else 0
        if self.level == "bubblewrap":
            self.box = mounts.BOX
            invented = {
                path: self._file(text.format(uid=uid or os.geteuid()).encode())
                for path, text in mounts.INVENTED.items()
            }
            line = mounts.bubblewrap(
                self.program, self.visible, invented, self.limits, as_root=uid > 0
            )
            line[1:1] = ["--info-fd", str(self.told.writer)]
        else:
            self.box = self.stack.enter_context(_own_folder(uid))
            invented, line = {}, []
        tree = self._file(self.job.tree)
        self.given = self._file(self.job.given)
        told = self._file(json.dumps(self._told(uid)).encode())
        ours = (told, tree, self.given, *(p.writer for p in (self.said, self.results, self.told)))
        line += [self.python, "-I", "-S", str(CONFINE)]
        line += [str(told), str(tree), str(self.said.writer), str(os.getpid())]
        return subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=self.outputs.writer,
            stderr=self.outputs.writer,
            env={},
            pass_fds=(*ours, *invented.values()),
            process_group=0,  # Ctrl-C is this program's to handle
        )

    def _told(self, uid: int) -> dict[str, object]:
        limits, job = self.limits, self.job
        alone = self.level == "landlock"
        added = [
            *job.environment.items(),
            ("TWIN_INPUT", str(self.given)),
            ("TWIN_RESULTS", str(self.results.writer)),
        ]
        variables = mounts.environment(self.box, [Path(job.command[0]).parent], added)
        return {
            "alone": alone,
            "uid": uid,
            "box": self.box,
            "command": job.command,
            "environment": dict(variable.split("=", 1) for variable in variables),
            "filter": syscalls.program(
                is_alone=alone, confines_signals=not alone or landlock_version() >= 6
            ).hex(),
            "files": {
                "readable": mounts.readable(self.visible),
                "writable": [self.box],
                "usable": mounts.DEVICES,
            },
            "limits": {
                "AS": limits.memory_bytes,
                "CPU": limits.cpu_s,
                "FSIZE": limits.file_bytes,
                "NOFILE": limits.num_open_files,
                "NPROC": limits.num_processes + (0 if uid else _counted_already(self.level)),
                "CORE": 0,
            },
        }

    def _file(self, content: bytes) -> int:
        """A descriptor to read `content` from."""
        descriptor = os.memfd_create("twin")
        self.stack.callback(os.close, descriptor)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    # --- while it runs

    def _follow(self, process: subprocess.Popen[bytes], started: float) -> None:
        last = started + self.limits.wall_s
        look = files = started
        with selectors.DefaultSelector() as selector:
            gone = os.pidfd_open(process.pid)
            self.stack.callback(os.close, gone)
            selector.register(gone, selectors.EVENT_READ, None)
            for pipe, hear in self._ears():
                os.set_blocking(pipe.reader, False)
                selector.register(pipe.reader, selectors.EVENT_READ, hear)
            while self.verdict is None:
                now = time.monotonic()
                if now >= last:
                    self.verdict = ("wall", f"ran longer than {self.limits.wall_s:g} s")
                    break
                if self.listener is not None and now >= self.listener.deadline():
                    self.verdict = ("stopped", "was given up by who followed it")
                    break
                if now >= look:
                    self._look_at_processes(process.pid)
                    look = now + LOOK_S
                if now >= files:
                    self._look_at_files(process.pid)
                    files = now + LOOK_FILES_S
                for key, _ in selector.select(LOOK_S):
                    if key.data is None:
                        return
                    chunk = os.read(key.fd, CHUNK)
                    key.data(chunk)
                    if not chunk:
                        selector.unregister(key.fd)

    def _ears(self) -> Iterator[tuple[_Pipe, Callable[[bytes], None]]]:
        yield self.outputs, self._hear_output
        yield self.results, self._hear_results
        yield self.said, self.status.extend
        yield self.told, self._hear_bubblewrap

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
        if seen > self.limits.memory_bytes:
            self.verdict = (
                "memory", f"held more than {_mib(self.limits.memory_bytes)} in memory"
            )  # fmt: skip

    def _look_at_files(self, pid: int) -> None:
        files, size = self._files(pid)
        if files > self.limits.num_files:
            self.verdict = ("disk", f"made more than {self.limits.num_files:,} files")
        elif size > self.limits.disk_bytes:
            self.verdict = ("disk", f"wrote more than {_mib(self.limits.disk_bytes)}")

    def _files(self, pid: int) -> tuple[int, int]:
        """Files and bytes in the box; a file system of its own holds to its size by itself."""
        if self.level == "landlock":
            return num_files(Path(self.box), self.limits.num_files)
        if not self.status:  # before it is through, its root is still this machine's
            return 0, 0
        for inside in descendants(pid):
            with contextlib.suppress(OSError):
                room = os.statvfs(f"/proc/{inside}/root{self.box}")
                return room.f_files - room.f_ffree, 0
        return 0, 0

    # --- the end

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        """Ends whatever runs, and gives the exit code."""
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
        for pipe, hear in self._ears():
            os.set_blocking(pipe.reader, False)
            while time.monotonic() < limit:
                try:
                    chunk = os.read(pipe.reader, CHUNK)
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


@contextlib.contextmanager
def _own_folder(uid: int) -> Iterator[str]:
    """A folder for one run, the run's own."""
    with tempfile.TemporaryDirectory(prefix="twin-box-", ignore_cleanup_errors=True) as folder:
        if uid:
            os.chown(folder, uid, uid)
        try:
            yield folder
        finally:
            # A run may have taken its own rights away.
            for path, folders, _ in os.walk(folder):
                for name in folders:
                    inner = os.path.join(path, name)
                    if not os.path.islink(inner):
                        os.chmod(inner, 0o700)


@lru_cache
def landlock_version() -> int:
    """The version of the kernel's Landlock, 0 without one."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(444, None, ctypes.c_size_t(0), 1)))


def _counted_already(level: SandboxLevel) -> int:
    """Threads of this user that the kernel adds to the run's: before 5.14, and without a user
    namespace always."""
    release = tuple(int(part) for part in platform.release().split(".")[:2] if part.isdigit())
    if level == "bubblewrap" and release >= (5, 14):
        return 0
    total = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == os.geteuid():
                    total += len(os.listdir(f"/proc/{entry.name}/task"))
    return total


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 20):,.0f} MiB"
