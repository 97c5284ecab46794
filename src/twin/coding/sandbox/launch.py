"""Starts a job in the sandbox: its command line, its limits, its pipes, its place to live.

Owns everything between a `Job` and a running process. What becomes of the process is for
`following`.
"""

import contextlib
import json
import os
import platform
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from twin.coding.sandbox import cgroups, mounts, syscalls
from twin.coding.sandbox.limits import Job, Limits
from twin.records import SandboxLevel

CONFINE: Final = Path(__file__).with_name("confine.py")
UIDS: Final = range(1 << 29, 1 << 30)
"""Of nobody on any machine. One at random for each run started by root: the kernel counts a user's
processes over all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A run that has begun. Whoever gave the stack closes what it opened."""

    process: subprocess.Popen[bytes]
    group: cgroups.Group | None
    """The control group that holds it, where there is one."""
    box: str
    """The folder it lives in, by its name inside."""
    outputs: int
    """Descriptors to read from: what it prints,"""
    results: int
    """its results,"""
    said: int
    """what `confine` says of the set-up,"""
    told: int
    """and what bubblewrap says of the processes."""


def launch(level: SandboxLevel, program: str, job: Job, stack: contextlib.ExitStack) -> Launched:
    """Starts a job; `program` is bubblewrap, where the level needs it."""
    return _Launch(level, program, job, stack).whole()


def _group(limits: Limits, stack: contextlib.ExitStack) -> cgroups.Group | None:
    """A control group for a run, where one can be had. What it writes is in memory, and counts."""
    place = cgroups.place()
    if place is None:
        return None
    memory_bytes = limits.memory_bytes + limits.disk_bytes
    return stack.enter_context(cgroups.group(place, memory_bytes, limits.num_processes))


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


class _Launch:
    def __init__(
        self, level: SandboxLevel, program: str, job: Job, stack: contextlib.ExitStack
    ) -> None:
        self.level = level
        self.program = program
        self.job = job
        self.limits = job.limits
        self.stack = stack
        self.box = ""
        self.group = _group(job.limits, stack)
        self.pipes = [_Pipe.made(stack) for _ in range(4)]
        self.outputs, self.results, self.said, self.told = self.pipes
        first = job.command[0]
        self.python = first if Path(first).name.startswith("python") else sys.executable
        self.visible = [*job.visible, CONFINE, *mounts.interpreter(Path(self.python))]

    def whole(self) -> Launched:
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
        given = self.job.given
        self.given = given if isinstance(given, int) else self._file(given)
        told = self._file(json.dumps(self._told(uid)).encode())
        ours = (told, tree, self.given, *(p.writer for p in (self.said, self.results, self.told)))
        line += [self.python, "-I", "-S", str(CONFINE)]
        line += [str(told), str(tree), str(self.said.writer), str(os.getpid())]
        process = subprocess.Popen(
            self.group.entering(line) if self.group else line,
            stdin=subprocess.DEVNULL,
            stdout=self.outputs.writer,
            stderr=self.outputs.writer,
            env={},
            pass_fds=(*ours, *invented.values()),
            process_group=0,  # Ctrl-C is this program's to handle
        )
        for pipe in self.pipes:
            pipe.close_writer()
        return Launched(
            process=process,
            group=self.group,
            box=self.box,
            outputs=self.outputs.reader,
            results=self.results.reader,
            said=self.said.reader,
            told=self.told.reader,
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
                "AS": limits.address_bytes,
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
