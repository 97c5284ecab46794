"""The seam of test supplementation: who proposes tests for a commit that its own do not prove.

A proposal is a file and where it came from, no more: whatever it says, it counts only if it fails
before the commit and passes after it (`observe.supplement`). Names the generators there are; knows
nothing of how one works.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from twin.coding.changed import Sides
from twin.coding.testing.calls import Call, Outcome
from twin.coding.testing.results import TestRun
from twin.records import Commit, DiffCoverage, Validation


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A test file that somebody proposes."""

    path: str
    content: str
    generator: str


class Probe(Protocol):
    """Runs things on the two sides of a commit, in the sandbox."""

    def outcomes(self, calls: Sequence[Call]) -> Iterable[tuple[Outcome | None, Outcome | None]]:
        """For each call what it comes to before and after the commit."""
        ...

    def tests(self, path: str, content: str) -> TestRun:
        """A test file on the commit's side."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A commit that wants tests."""

    commit: Commit
    files: Sequence[Sides]
    """Both sides of what it changed, without its tests."""
    tests: Mapping[str, str]
    """The test files that were run, as they are after it."""
    natural: Validation
    """What its own tests show."""
    coverage: DiffCoverage
    run: TestRun
    """Its own tests after it, with its sources watched."""
    roots: tuple[str, ...]
    """Folders that the tree imports from."""
    probe: Probe

    def place(self, name: str) -> str:
        """A path for a generated test file: beside the commit's own, whose fixtures it sees."""
        folder = PurePosixPath(next(iter(self.tests))).parent if self.tests else None
        return str((folder or PurePosixPath("tests")) / f"test_twin_{name}.py")

    def module(self, path: str) -> str | None:
        """The name by which a source file is imported; None where it has none."""
        return module_name(path, self.roots)


class Generator(Protocol):
    """Proposes tests."""

    def propose(self, case: Case) -> Iterable[Proposal]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What generators may use beyond the commit."""

    ask: Callable[[str], str] | None = None
    """Puts a question to a model; None where there is none."""


def module_name(path: str, roots: Sequence[str]) -> str | None:
    """`src/a/b.py` imported from `src` is `a.b`."""
    for root in roots:
        inside = path if root == "." else path.removeprefix(f"{root}/")
        if (root == "." or inside != path) and inside.endswith(".py"):
            parts = inside.removesuffix(".py").removesuffix("/__init__").split("/")
            if all(part.isidentifier() for part in parts):
                return ".".join(parts)
    return None
