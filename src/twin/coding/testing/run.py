"""Runs the tests of a tree in the sandbox, whatever they do, and says what each came to.

A crash or a hang costs the test in which it happened and no other: the rest goes on in another
sandbox, and the culprit is tried once more alone. Does not compare runs (`observe.validate` does).
"""

import time
from collections.abc import Iterable, Sequence
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
MAX_LINE: Final = 200_000
"""No file of a person is longer; what a test makes up must not fill the memory."""
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
    lines: dict[str, list[int]] = {}
    properties: list[tuple[str, str]] = []


_OUTCOMES: Final = frozenset({"passed", "failed", "error", "skipped", "xfailed", "xpassed"})
_decoder = msgspec.json.Decoder(_Event)


class _Pass:
    """What was heard of one selection."""

    def __init__(self) -> None:
        self.results: dict[str, TestResult] = {}
        self.broken: dict[str, str] = {}
        self.unsteady: set[str] = set()
        self.collected: list[str] = []
        self.lines: dict[str, dict[str, int]] = {}
        self.executable: dict[str, int] = {}
        self.running = ""
        self.code: int | None = None
        """Pytest's, once it has come to its end."""
        self.ended: Ended | None = None
        """How its process was over; None where it never began."""

    def take(self, event: _Event) -> None:
        if event.kind == "start":
            self.running = event.id
        elif event.kind == "end" and len(self.results) < MAX_TESTS:
            self.running = ""
            if event.outcome in _OUTCOMES:
                outcome: Outcome = event.outcome  # type: ignore[assignment]
                found = TestResult(
                    outcome=outcome,
                    seconds=event.seconds,
                    text=event.text,
                    properties=tuple(event.properties),
                )
                earlier = self.results.setdefault(event.id, found)
                if earlier.kind != found.kind:
                    self.unsteady.add(event.id)
        elif event.kind == "broken":
            self.broken[event.id] = event.text
        elif event.kind == "collected":
            self.collected = event.ids[:MAX_TESTS]
        elif event.kind == "lines" and len(self.lines) < MAX_TESTS:
            ran = self.lines.setdefault(event.id, {})
            for path, lines in event.lines.items():
                ran[path] = ran.get(path, 0) | _bits(lines)
        elif event.kind == "executable":
            self.executable = {path: _bits(lines) for path, lines in event.lines.items()}
        elif event.kind == "done":
            self.code = event.code


def _bits(lines: Iterable[int]) -> int:
    found = bytearray(MAX_LINE // 8)
    for line in lines:
        if 0 < line < MAX_LINE:
            found[line // 8] |= 1 << line % 8
    return int.from_bytes(found, "little")


class _Follower:
    """Listens to one sandbox, in which one selection runs or several, one after the other."""

    def __init__(self, patience: Patience, num_passes: int) -> None:
        self.passes = [_Pass() for _ in range(num_passes)]
        self.codes: list[int] = []
        """How each process ended, below 0 by a signal, where each has its own."""
        self._patience = patience
        self._since = time.monotonic()
        self._wait_s = patience.collect_s

    def hear(self, line: bytes) -> None:
        try:
            event = _decoder.decode(line)
        except msgspec.DecodeError:
            return  # a test has written to a descriptor that is not its own
        self._since, self._wait_s = time.monotonic(), self._patience.test_s
        if event.kind == "pass":
            self.codes.append(event.code)
            self._wait_s = self._patience.collect_s
        elif len(self.codes) < len(self.passes):
            self.passes[len(self.codes)].take(event)
            if event.kind == "done":
                self._wait_s = LEAVE_S

    def deadline(self) -> float:
        return self._since + self._wait_s

    def over(self, ended: Ended) -> None:
        """The sandbox is gone: each pass that began has an end."""
        for at, one in enumerate(self.passes):
            if at < len(self.codes):
                code = self.codes[at]
                one.ended = replace(
                    ended, cause="signal" if code < 0 else "exit", code=abs(code), detail=""
                )
            elif at == len(self.codes):
                one.ended = ended


def run_tests(
    sandbox: Sandbox,
    tree: Tree,
    selections: Sequence[Selection],
    environment: TestEnvironment,
    *,
    options: tuple[str, ...] = (),
    limits: Limits | None = None,
    patience: Patience | None = None,
) -> list[TestRun]:
    """For each selection every one of its tests on the tree, with its result.

    Several selections share a sandbox where they can: pytest is loaded once, and each runs in a
    process of its own on files like new. `options` are the project's own for pytest
    (`options.own_options`).
    """
    suite = _Suite(sandbox, tree, environment, options, limits or Limits(), patience or Patience())
    begun = suite.start(selections) if len(selections) > 1 else [None]
    return [
        _Selected(suite, selection).whole(one)
        for selection, one in zip(selections, begun, strict=True)
    ]


class _Suite:
    """A tree's tests, ready to be run in sandboxes."""

    def __init__(
        self,
        sandbox: Sandbox,
        tree: Tree,
        environment: TestEnvironment,
        options: tuple[str, ...],
        limits: Limits,
        patience: Patience,
    ) -> None:
        self.sandbox = sandbox
        added = {path: data for path, data in environment.files.items() if path not in tree.names}
        self.tree = tree.with_files(added) if added else tree
        self.environment = environment
        self.options = options
        self.limits = limits
        self.patience = patience

    def start(
        self, selections: Sequence[Selection], without: frozenset[str] = frozenset()
    ) -> list[_Pass]:
        """One sandbox for all of them."""
        environment = self.environment
        told = {
            "passes": [self._told(selection, without) for selection in selections],
            "roots": self.tree.roots,
            "last": [str(path) for path in environment.last],
            "alone": self.sandbox.level == "landlock",
        }
        follower = _Follower(self.patience, len(selections))
        job = Job(
            command=(str(environment.python), str(INSIDE)),
            tree=self.tree.archive,
            visible=(*environment.visible, *environment.last, INSIDE),
            given=msgspec.json.encode(told),
            environment=environment.variables,
            limits=self.limits,
        )
        follower.over(self.sandbox.run(job, follower))
        return follower.passes

    def _told(self, selection: Selection, without: frozenset[str]) -> dict[str, object]:
        paths = map(_path, selection.paths)
        return {
            "arguments": [*STEADY, "-o", "addopts=", *self.options, *paths],
            "only": None if selection.only is None else sorted(selection.only),
            "without": sorted(without),
            "reverse": selection.reverse,
            "settled": sorted(selection.settled | without),
            "num_repeats": selection.num_repeats,
            "watched": selection.watched,
            "seed": SEED,
        }


class _Selected:
    """One selection on its way to a result for every test."""

    def __init__(self, suite: _Suite, selection: Selection) -> None:
        self.suite = suite
        self.selection = selection
        self.results: dict[str, TestResult] = {}
        self.broken: dict[str, str] = {}
        self.unsteady: set[str] = set()
        self.lines: dict[str, dict[str, int]] = {}
        self.executable: dict[str, int] = {}
        self.ends: list[Ended] = []

    def whole(self, begun: _Pass | None) -> TestRun:
        fault = self._fault(begun)
        last = self.ends[-1]
        return TestRun(
            results=self.results,
            broken=self.broken,
            fault=fault,
            unsteady=frozenset(self.unsteady),
            level=last.level,
            limiter=last.limiter,
            num_starts=len(self.ends),
            wall_s=sum(ended.wall_s for ended in self.ends),
            cpu_s=sum(ended.cpu_s for ended in self.ends),
            peak_bytes=max(ended.peak_bytes for ended in self.ends),
            output=last.output[-KEPT_OUTPUT:].decode("utf-8", "replace"),
            lines=self.lines,
            executable=self.executable,
        )

    def _fault(self, begun: _Pass | None) -> str:
        """Runs everything that `begun` has not; why it is not complete."""
        crashes, most = 0, self.suite.patience.max_crashes
        while True:
            if begun is not None and begun.ended is not None:
                heard, begun = begun, None
            else:
                (heard,) = self.suite.start([self.selection], frozenset(self.results))
                begun = None
            ended = heard.ended
            assert ended is not None
            self.ends.append(ended)
            self.results |= heard.results
            self.broken |= heard.broken
            self.unsteady |= heard.unsteady
            self.lines |= heard.lines
            self.executable |= heard.executable
            if heard.code is not None:
                return self._of_pytest(heard.code, ended)
            culprit = heard.running
            if not culprit:
                return f"pytest {_in_words(ended)}" + _last_words(ended)
            stuck: Outcome = "timeout" if ended.cause in ("stopped", "wall") else "crashed"
            self.results[culprit] = TestResult(
                outcome=stuck, seconds=0.0, text=f"it {_in_words(ended)}"
            )
            if ended.cause == "wall":
                limit = self.suite.limits.wall_s
                return f"ran longer than {limit:g} s, and the rest did not run"
            crashes += 1
            if crashes <= most and len(heard.collected) > 1:
                self._alone(culprit)
            left = [test for test in heard.collected if test not in self.results]
            if not left:
                return ""
            if crashes > most:
                return f"crashed {crashes} times, and {len(left)} tests did not run"

    def _alone(self, culprit: str) -> None:
        """Tries a test that crashed once more, without company: was it the test, or an earlier
        one?"""
        selection = replace(self.selection, only=frozenset({culprit}), num_repeats=0)
        (heard,) = self.suite.start([selection])
        assert heard.ended is not None
        self.ends.append(heard.ended)
        if culprit in heard.results:
            self.unsteady.add(culprit)

    def _of_pytest(self, code: int, ended: Ended) -> str:
        if code in (0, 1, 5) or (self.broken and code == 2):
            return ""
        return f"pytest ended with code {code}" + _last_words(ended)


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
