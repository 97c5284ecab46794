"""What a run in the sandbox may use, what it is given, and how it ended. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from twin.records import SandboxLevel

MIB: Final = 1 << 20

LEVELS: Final[tuple[SandboxLevel, ...]] = ("bubblewrap", "landlock")
"""The stronger first."""

Cause = Literal["exit", "signal", "wall", "memory", "disk", "output", "stopped", "setup"]
"""Why a run was over: it ended by itself (`exit`, `signal`), it met a limit, the caller had seen
enough (`stopped`), or the command never began (`setup`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that one run may use. Every process of it counts."""

    wall_s: float = 120.0
    cpu_s: int = 300
    """Processor seconds of a single process; the wall clock bounds all of them together."""
    memory_bytes: int = 2048 * MIB
    """Of all processes together what only they hold in memory, looked at from outside."""
    address_bytes: int = 16384 * MIB
    """Address space of each process. Libraries reserve much more than they use: an import of JAX
    and of PyTorch for CUDA needs more than the memory above."""
    disk_bytes: int = 512 * MIB
    """The tree, the home folder and temporary files together. They live in memory, or, with
    `landlock`, in the machine's folder for temporary files."""
    num_files: int = 100_000
    file_bytes: int = 256 * MIB
    """A single file."""
    num_processes: int = 128
    """Threads count, as they do for the kernel."""
    num_open_files: int = 1024
    output_bytes: int = 64 * MIB
    """Standard output and error together, of which only the end is kept; and as many bytes of
    results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A command for the sandbox. It starts in a fresh copy of the tree, which vanishes with it."""

    command: tuple[str, ...]
    """The first is an absolute path."""
    tree: bytes
    """A tar archive, as `git archive` makes one; empty for an empty folder."""
    visible: tuple[Path, ...] = ()
    """Folders and files of this machine that it may read, besides the system's programs and
    libraries. They stand where they stand here."""
    given: bytes | int = b""
    """To be read from the descriptor that `TWIN_INPUT` names. An open descriptor is passed on, and
    may be a pipe through which more is told while it runs."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to what every run has; nothing of this program's environment is passed on."""
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run was over, and what it used."""

    level: SandboxLevel
    limiter: str
    """What held it to its memory and processes: `cgroup v2`, `cgroup v1`, or `watching`, a look
    every 50 ms."""
    cause: Cause
    code: int
    """Its exit code, or the signal's number where a signal ended it; 0 where nothing began."""
    detail: str
    """One sentence for a limit that was met or a set-up that failed; empty otherwise."""
    output: bytes
    """The last bytes of standard output and error."""
    wall_s: float
    cpu_s: float
    """As last seen; a look every 50 ms."""
    peak_bytes: int
    """The most memory that was seen."""

    @property
    def is_ok(self) -> bool:
        """It ended by itself, and well."""
        return self.cause == "exit" and self.code == 0
