"""Runs somebody else's code where it can do no harm, within limits, and says how it ended.

Owns the choice of the level (`records.SandboxLevel`). One run is `launch` and `following`. Knows
nothing of tests or repositories. It guards against accidents and rude test suites, not against an
attack on the kernel.
"""

import contextlib
import platform
import shutil
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Final

from twin.coding.sandbox import syscalls
from twin.coding.sandbox.following import Following, Listener
from twin.coding.sandbox.launch import launch
from twin.coding.sandbox.limits import LEVELS, Ended, Job, Limits
from twin.errors import MissingRequirement
from twin.records import SandboxLevel

MISSING: Final = (
    "Code of others runs only in a sandbox, and this machine offers none: {why}. Install "
    "bubblewrap (Debian: `apt install bubblewrap`) where user namespaces are allowed, or use a "
    "Linux kernel with Landlock (5.13 or newer)."
)


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
            started = time.monotonic()
            run = launch(self.level, self._program, job, stack)
            return Following(self.level, run, job.limits, listener, stack).to_its_end(started)


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
