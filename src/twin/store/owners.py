"""Names for processes, and which of them are known to be gone.

A number alone says little: it is given out again, and a container counts its own. A name therefore
holds the machine since it was started, the namespace that counts, the number and the moment at
which that process began.
"""

import hashlib
import os
import socket
from functools import lru_cache
from pathlib import Path


def this_process() -> str:
    """The name of the process that asks."""
    return f"{socket.gethostname()}:{_counted_by()}:{os.getpid()}:{_began(os.getpid())}"


def is_gone(owner: str) -> bool | None:
    """Whether a process has ended; None where it cannot be seen from here."""
    _, counted_by, pid, began = owner.rsplit(":", 3)
    if not counted_by or counted_by != _counted_by():
        return None
    return _began(int(pid)) != began


def described(owner: str) -> str:
    """A process as a person would find it."""
    host, _, pid, _ = owner.rsplit(":", 3)
    return f"process {pid} on {host}"


@lru_cache
def _counted_by() -> str:
    """What gives out the numbers: this machine since its start, and the namespace; empty where
    the system does not say."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        counter = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return hashlib.sha256(f"{start} {counter}".encode()).hexdigest()[:12]


def _began(pid: int) -> str:
    """When a process was started, in the kernel's own count; empty where there is none, or only
    what is left of one that has ended."""
    try:
        told = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return ""
    # The name before may hold anything; then the state is field 3, the start 22.
    fields = told.rpartition(b")")[2].split()
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")
