"""What tests came to, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from twin.records import SandboxLevel

Outcome = Literal[
    "passed", "failed", "error", "skipped", "xfailed", "xpassed", "crashed", "timeout"
]  # fmt: skip
"""`error`: its set-up or tear-down failed. `crashed`: the process died in it. `timeout`: it took
longer than a single test may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestResult:
    """One test, by pytest's node id."""

    __test__ = False  # no test class, whatever pytest thinks of its name

    outcome: Outcome
    seconds: float
    text: str = ""
    """The end of a failure."""
    properties: tuple[tuple[str, str], ...] = ()
    """What the test recorded of itself (pytest's `record_property`)."""

    @property
    def passes(self) -> bool:
        """It ran and found nothing wrong."""
        return self.outcome in ("passed", "xpassed")

    @property
    def fails(self) -> bool:
        """It found something wrong, or never came to an end."""
        return self.outcome in ("failed", "error", "crashed", "timeout")

    @property
    def kind(self) -> str:
        """`passes`, `fails` or `neither`."""
        return "passes" if self.passes else "fails" if self.fails else "neither"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which tests of a tree, and in what order."""

    paths: tuple[str, ...] = ()
    """Files, folders or node ids for pytest; empty means what the project itself tests."""
    only: frozenset[str] | None = None
    """Of what was collected, these node ids alone."""
    named: tuple[str, ...] = ()
    """Of what was collected, what has one of these words in its name; empty means all."""
    reverse: bool = False
    num_repeats: int = 0
    """How often all of them run once more at the end."""
    afresh: bool = False
    """From a collection of their own, made once more in a session: does each have the same name
    again?"""
    test_s: float = float("inf")
    """The most that one test may take, where that is less than the run's patience."""
    watched: tuple[str, ...] = ()
    """Files of which is told what lines ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestEnvironment:
    """With what the tests of a project run."""

    __test__ = False

    python: Path
    """The interpreter; pytest is installed in its environment."""
    visible: tuple[Path, ...] = ()
    """What else of this machine they may read."""
    last: tuple[Path, ...] = ()
    """Folders to import from after the tree: the project's own metadata and generated modules."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Path -> content of what a build would write into the tree, where the tree lacks it."""
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TestRun:
    """What a selection came to on one tree."""

    __test__ = False

    results: Mapping[str, TestResult]
    """By node id, in the order they ran."""
    broken: Mapping[str, str]
    """Files that could not be collected, and why."""
    fault: str
    """Why it is not complete: one sentence; empty where it is."""
    unsteady: frozenset[str]
    """They did not come to the same each time."""
    level: SandboxLevel
    limiter: str
    """As `sandbox.limits.Ended` has it."""
    num_starts: int
    """Sandboxes it took: one more for each crash."""
    wall_s: float
    cpu_s: float
    peak_bytes: int
    output: str
    """The end of what the last of them printed."""
    lines: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Test -> watched file -> the lines that ran, as bits: line n is `1 << n`. Under the empty name
    what ran before the first test, by imports. In one number a thousand tests fit into memory."""
    executable: Mapping[str, int] = field(default_factory=dict)
    """Watched file -> the lines that can run at all, likewise."""
