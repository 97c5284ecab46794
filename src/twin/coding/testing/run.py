"""Runs the tests of a tree in the sandbox, whatever they do, and says what each came to.

A crash or a hang costs the test in which it happened and no other: the rest goes on in another
sandbox, and the culprit is tried once more alone. Does not compare runs (`observe.validate` does).
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from twin.coding.sandbox.cell import Sandbox
from twin.coding.sandbox.limits import Ended, Job, Limits
from twin.coding.testing.options import STEADY
from twin.coding.testing.results import (
    Outcome,
    Selection,
    TestEnvironment,
    TestResult,
    TestRun,
)
from twin.coding.testing.trees import Tree

INSIDE: Final = Path(__file__).with_name("inside.py")
SEED: Final = 0
LEAVE_S: Final = 5.0
"""For pytest to end, once its last test has."""
MAX_TESTS: Final = 200_000
KEPT_OUTPUT: Final = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait, and how often to begin again."""

    test_s: float = 60.0
    collect_s: float = 60.0
    max_crashes: int = 10
    """After so many the remaining tests count as not run."""


class _Event(msgspec.Struct, frozen=True):
    """One line from `inside`."""

    kind: str
    id: str = ""
    ids: list[str] = []
    outcome: str = ""
    seconds: float = 0.0
    text: str = ""
    code: int = 0


_OUTCOMES: Final = frozenset({"passed", "failed", "error", "skipped", "xfailed", "xpassed"})
_decoder = msgspec.json.Decoder(_Event)


class _Follower:
    """Listens to one sandbox."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self.results: dict[str, TestResult] = {}
        self.broken: dict[str, str] = {}
        self.unsteady: set[str] = set()
        self.collected: list[str] = []
        self.running = ""
        self.code: int | None = None
        self._since = time.monotonic()
        self._wait_s = patience.collect_s

    def hear(self, line: bytes) -> None:
        try:
            event = _decoder.decode(line)
        except msgspec.DecodeError:
            return  # a test has written to a descriptor that is not its own
        self._since, self._wait_s = time.monotonic(), self.patience.test_s
        if event.kind == "start":
            self.running = event.id
        elif event.kind == "end" and len(self.results) < MAX_TESTS:
            self.running = ""
            if event.outcome in _OUTCOMES:
                outcome: Outcome = event.outcome  # type: ignore[assignment]
                found = TestResult(outcome=outcome, seconds=event.seconds, text=event.text)
                earlier = self.results.setdefault(event.id, found)
                if earlier.kind != found.kind:
                    self.unsteady.add(event.id)
        elif event.kind == "broken":
            self.broken[event.id] = event.text
        elif event.kind == "collected":
            self.collected = event.ids[:MAX_TESTS]
        elif event.kind == "done":
            self.code, self._wait_s = event.code, LEAVE_S

    def deadline(self) -> float:
        return self._since + self._wait_s


def run_tests(
    sandbox: Sandbox,
    tree: Tree,
    selection: Selection,
    environment: TestEnvironment,
    *,
    options: tuple[str, ...] = (),
    limits: Limits | None = None,
    patience: Patience | None = None,
) -> TestRun:
    """Every selected test of the tree, each with its result.

    `options` are the project's own for pytest (`options.own_options`).
    """
    return _TestRun(
        sandbox, tree, selection, environment, options, limits or Limits(), patience or Patience()
    ).whole()


class _TestRun:
    def __init__(
        self,
        sandbox: Sandbox,
        tree: Tree,
        selection: Selection,
        environment: TestEnvironment,
        options: tuple[str, ...],
        limits: Limits,
        patience: Patience,
    ) -> None:
        self.sandbox = sandbox
        added = {path: data for path, data in environment.files.items() if path not in tree.names}
        self.tree = tree.with_files(added) if added else tree
        self.selection = selection
        self.environment = environment
        self.options = options
        self.limits = limits
        self.patience = patience
        self.results: dict[str, TestResult] = {}
        self.broken: dict[str, str] = {}
        self.unsteady: set[str] = set()
        self.ends: list[Ended] = []

    def whole(self) -> TestRun:
        fault = self._fault()
        last = self.ends[-1]
        return TestRun(
            results=self.results,
            broken=self.broken,
            fault=fault,
            unsteady=frozenset(self.unsteady),
            level=last.level,
            num_starts=len(self.ends),
            wall_s=sum(ended.wall_s for ended in self.ends),
            cpu_s=sum(ended.cpu_s for ended in self.ends),
            peak_bytes=max(ended.peak_bytes for ended in self.ends),
            output=last.output[-KEPT_OUTPUT:].decode("utf-8", "replace"),
        )

    def _fault(self) -> str:
        """Runs everything; why it is not complete."""
        crashes = 0
        while True:
            follower, ended = self._start(self.selection, frozenset(self.results))
            self.results |= follower.results
            self.broken |= follower.broken
            self.unsteady |= follower.unsteady
            if follower.code is not None:
                return self._of_pytest(follower.code, ended)
            culprit = follower.running
            if not culprit:
                return f"pytest {_in_words(ended)}" + _last_words(ended)
            stuck: Outcome = "timeout" if ended.cause in ("stopped", "wall") else "crashed"
            self.results[culprit] = TestResult(
                outcome=stuck, seconds=0.0, text=f"it {_in_words(ended)}"
            )
            if ended.cause == "wall":
                return f"ran longer than {self.limits.wall_s:g} s, and the rest did not run"
            crashes += 1
            if crashes <= self.patience.max_crashes and len(follower.collected) > 1:
                self._alone(culprit)
            left = [test for test in follower.collected if test not in self.results]
            if not left:
                return ""
            if crashes > self.patience.max_crashes:
                return f"crashed {crashes} times, and {len(left)} tests did not run"

    def _alone(self, culprit: str) -> None:
        """Tries a test that crashed once more, without company: was it the test, or an earlier
        one?"""
        selection = replace(self.selection, only=frozenset({culprit}), num_repeats=0)
        follower, _ = self._start(selection, frozenset())
        alone = follower.results.get(culprit)
        if alone is not None:
            self.unsteady.add(culprit)

    def _of_pytest(self, code: int, ended: Ended) -> str:
        if code in (0, 1, 5) or (self.broken and code == 2):
            return ""
        return f"pytest ended with code {code}" + _last_words(ended)

    def _start(self, selection: Selection, without: frozenset[str]) -> tuple[_Follower, Ended]:
        environment = self.environment
        told = {
            "arguments": [*STEADY, "-o", "addopts=", *self.options, *map(_path, selection.paths)],
            "only": None if selection.only is None else sorted(selection.only),
            "without": sorted(without),
            "reverse": selection.reverse,
            "repeated": sorted(selection.repeated - without),
            "num_repeats": selection.num_repeats,
            "roots": self.tree.roots,
            "last": [str(path) for path in environment.last],
            "seed": SEED,
        }
        follower = _Follower(self.patience)
        job = Job(
            command=(str(environment.python), str(INSIDE)),
            tree=self.tree.archive,
            visible=(*environment.visible, *environment.last, INSIDE),
            given=msgspec.json.encode(told),
            environment=environment.variables,
            limits=self.limits,
        )
        ended = self.sandbox.run(job, follower)
        self.ends.append(ended)
        return follower, ended


def _path(path: str) -> str:
    return f"./{path}" if path.startswith("-") else path


def _in_words(ended: Ended) -> str:
    if ended.cause == "stopped":
        return "took too long"
    if ended.cause == "signal":
        return f"was ended by signal {ended.code}"
    return ended.detail or f"ended with code {ended.code}"


def _last_words(ended: Ended) -> str:
    lines = [line for line in ended.output.decode("utf-8", "replace").splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("ERROR", "INTERNALERROR"))] or lines
    return f": {telling[-1].strip()[:200]}" if telling else ""
