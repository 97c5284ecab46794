"""What a running sandbox uses, seen from outside: its processes, their memory, its files.

Reads `/proc` only, and never fails because a process ended while it was being looked at.
"""

import os
from pathlib import Path
from typing import Final

TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, however it was started."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children(waiting.pop())
        found += below
        waiting += below
    return found


def children(pid: int) -> list[int]:
    """The processes that `pid` has started and that have not gone to another parent."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:
        try:
            listed = Path(f"/proc/{pid}/task/{thread}/children").read_text()
        except OSError:
            continue
        found += map(int, listed.split())
    return found


def cpu_seconds(pids: list[int]) -> float:
    """What these processes and those they have waited for have used."""
    ticks = 0
    for pid in pids:
        try:
            told = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            continue
        # The name before may hold anything; then the state is field 3, the four times 14 to 17.
        ticks += sum(map(int, told.rpartition(b")")[2].split()[11:15]))
    return ticks / TICKS_PER_SECOND


def private_bytes(pids: list[int]) -> int:
    """Memory that stands behind these processes and no file: resident less shared pages. What a
    fork has not yet copied counts for both."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/statm").read_text().split()
        except OSError:
            continue
        if len(fields) > 2:  # a process that has just ended has no memory to speak of
            total += (int(fields[1]) - int(fields[2])) * PAGE_BYTES
    return total


def num_files(folder: Path, limit: int) -> tuple[int, int]:
    """Files and bytes below a folder of this machine's own; counts no further than `limit` files.

    For a file system that is the sandbox's alone, `os.statvfs` knows both at once.
    """
    files = size = 0
    waiting = [folder]
    while waiting and files <= limit:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue
        for entry in entries:
            files += 1
            try:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                else:
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
            except OSError:
                continue
    return files, size
