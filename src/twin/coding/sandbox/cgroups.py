"""Control groups: where this program may make one, the kernel itself holds a run to its memory and
its number of processes, all of them together.

Version 2 where memory and processes are delegated to a group that this program may write (systemd's
`Delegate=yes`, or root), else version 1. A place is tried with a real process before it is trusted.
Without any, runs are watched from outside (`following`) and limited one process at a time.
"""

import contextlib
import itertools
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

NEEDED: Final = ("memory", "pids")
NAME: Final = "twin-{pid}-{number}"
REMOVE_S: Final = 2.0
"""For processes that have ended to leave their group."""
OWN_PROCESSES: Final = 8
"""Of the sandbox itself, which are in the group too."""

# Enters the groups before it becomes the sandbox: whoever is put into one from outside may have
# started others by then. 0 stands for whoever writes it.
ENTER: Final = (
    'n=$1; shift; while [ "$n" -gt 0 ]; do echo 0 > "$1" || exit 125; shift; n=$((n-1)); done; '
    'exec "$@"'
)

_numbers = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where groups can be made."""

    version: int
    folders: tuple[Path, ...]
    """One for each of `NEEDED`; in version 2 they are the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The group of one run."""

    version: int
    memory: Path
    folders: frozenset[Path]

    def entering(self, line: list[str]) -> list[str]:
        """A command line that enters the group first."""
        files = [str(folder / "cgroup.procs") for folder in sorted(self.folders)]
        return ["/bin/sh", "-c", ENTER, "sh", str(len(files)), *files, *line]

    def has_run_out(self) -> bool:
        """Whether the kernel had to kill a process of it for want of memory."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        with contextlib.suppress(OSError):
            found = re.search(r"^oom_kill (\d+)", (self.memory / name).read_text(), re.MULTILINE)
            return found is not None and int(found[1]) > 0
        return False


@contextlib.contextmanager
def group(place: Place, memory_bytes: int, num_processes: int) -> Iterator[Group]:
    """A group with these limits, removed at the end, when its processes must be gone."""
    name = NAME.format(pid=os.getpid(), number=next(_numbers))
    folders = [folder / name for folder in place.folders]
    made = Group(version=place.version, memory=folders[0], folders=frozenset(folders))
    try:
        for folder in made.folders:
            folder.mkdir()
        limit = {1: "memory.limit_in_bytes", 2: "memory.max"}[place.version]
        (folders[0] / limit).write_text(str(memory_bytes))
        # What would be swapped out instead was not asked for; a kernel can be without.
        swap = {1: "memory.memsw.limit_in_bytes", 2: "memory.swap.max"}[place.version]
        with contextlib.suppress(FileNotFoundError):
            (folders[0] / swap).write_text("0" if place.version == 2 else str(memory_bytes))
        if place.version == 2:
            (folders[0] / "memory.oom.group").write_text("1")
        (folders[1] / "pids.max").write_text(str(num_processes + OWN_PROCESSES))
        yield made
    finally:
        for folder in made.folders:
            _remove(folder)


@lru_cache
def place() -> Place | None:
    """Where this program can make groups, None where nowhere."""
    for found in _candidates():
        _sweep(found)
        with contextlib.suppress(OSError), group(found, 64 << 20, 8) as made:
            done = subprocess.run(made.entering(["/bin/true"]), capture_output=True, check=False)
            if done.returncode == 0:
                return found
    return None


def limiter() -> str:
    """What holds runs to their limits here, as `limits.Ended` has it."""
    found = place()
    return f"cgroup v{found.version}" if found else "watching"


def _candidates() -> Iterator[Place]:
    """The groups that this process is in, version 2 first, the nearest first."""
    own: dict[str, str] = {}
    mounts: dict[str, Path] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            own.update(dict.fromkeys(controllers.split(","), path))
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, at, kind, options, *_ = line.split(" ")
            if kind == "cgroup2":
                mounts.setdefault("", Path(at))
            elif kind == "cgroup":
                mounts.update({option: Path(at) for option in options.split(",") if option in own})
    if "" in mounts and "" in own:
        for folder in _upwards(mounts[""], own[""]):
            with contextlib.suppress(OSError):
                given = (folder / "cgroup.subtree_control").read_text().split()
                if set(NEEDED) <= set(given):
                    yield Place(version=2, folders=(folder, folder))
    if all(name in mounts for name in NEEDED):
        lowest = (next(_upwards(mounts[name], own[name]), mounts[name]) for name in NEEDED)
        yield Place(version=1, folders=tuple(lowest))


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """The group and those above it, as far as they can be seen here."""
    inside = Path(path.lstrip("/"))
    for part in (inside, *inside.parents):
        if (mount / part).is_dir():
            yield mount / part


def _sweep(found: Place) -> None:
    """Removes the groups of processes that were killed. One that is in use stays by itself."""
    for folder in {*found.folders}:
        for left in folder.glob("twin-*-*"):
            pid = left.name.split("-")[1]
            if not Path("/proc", pid).exists():
                with contextlib.suppress(OSError):
                    left.rmdir()


def _remove(folder: Path) -> None:
    limit = time.monotonic() + REMOVE_S
    while folder.exists():
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > limit:
                return  # the next process that looks for a place removes it
            time.sleep(0.01)
