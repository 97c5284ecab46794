"""Runs the tests of a tree in the sandbox, whatever they do, and says what each came to.

A crash or a hang costs the test in which it happened and no other: the rest goes on in another
sandbox. Was it that test, or one before it? Who compares runs asks again (`observe.validate`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from twin.coding.sandbox.cell import Sandbox
from twin.coding.sandbox.limits import Ended, Job, Limits
from twin.coding.testing.hearing import Heard, Hearing, Patience
from twin.coding.testing.options import FILES, STEADY, own_options
from twin.coding.testing.results import (
    Outcome,
    Selection,
    TestEnvironment,
    TestResult,
    TestRun,
)
from twin.coding.testing.trees import Tree

INSIDE: Final = Path(__file__).with_name("inside.py")
SERVING: Final = Path(__file__).with_name("serving.py")
SEED: Final = 0
KEPT_OUTPUT: Final = 4_000


def run_tests(
    sandbox: Sandbox,
    tree: Tree,
    selection: Selection,
    environment: TestEnvironment,
    *,
    options: Sequence[str] = (),
    limits: Limits | None = None,
    patience: Patience | None = None,
) -> TestRun:
    """Every test of a selection with its result.

    Pytest gets the project's own options (`options.own_options`), then `options`.
    """
    suite = Suite(sandbox, tree, environment, options, limits or Limits(), patience or Patience())
    return suite.run(selection)


class Suite:
    """A tree's tests, ready to be run in sandboxes."""

    def __init__(
        self,
        sandbox: Sandbox,
        tree: Tree,
        environment: TestEnvironment,
        options: Sequence[str],
        limits: Limits,
        patience: Patience,
    ) -> None:
        self.sandbox = sandbox
        added = {path: data for path, data in environment.files.items() if path not in tree.names}
        self.tree = tree.with_files(added) if added else tree
        self.environment = environment
        self.options = (*own_options(tree.texts(FILES)), *options)
        self.limits = limits
        self.patience = patience

    def run(self, selection: Selection, begun: Heard | None = None) -> TestRun:
        """Each test of a selection with its result; `begun` is what is known of them already."""
        return _Selected(self, selection).whole(begun)

    def start(self, selection: Selection, without: frozenset[str] = frozenset()) -> Heard:
        """One selection in a sandbox of its own."""
        hearing = Hearing(self.patience, selection)
        told = {**self.told(), "selection": self.described(selection, without)}
        job = inside_job(self.environment, self.limits, msgspec.json.encode(told), self.tree)
        hearing.heard.ended = self.sandbox.run(job, hearing)
        return hearing.heard

    def told(self) -> dict[str, object]:
        """What `inside` has to know of the tree."""
        return {
            "roots": self.tree.roots,
            "last": [str(path) for path in self.environment.last],
        }

    def described(
        self, selection: Selection, without: frozenset[str] = frozenset()
    ) -> dict[str, object]:
        """A selection as `inside` reads it."""
        paths = map(_path, selection.paths)
        return {
            "arguments": [*STEADY, "-o", "addopts=", *self.options, *paths],
            "only": None if selection.only is None else sorted(selection.only),
            "named": selection.named,
            "without": sorted(without),
            "reverse": selection.reverse,
            "num_repeats": selection.num_repeats,
            "afresh": selection.afresh,
            "watched": selection.watched,
            "seed": SEED,
        }


def inside_job(environment: TestEnvironment, limits: Limits, given: bytes | int, tree: Tree) -> Job:
    """`inside` as a job, in the environment of the tests."""
    return Job(
        command=(str(environment.python), str(INSIDE)),
        tree=tree.archive,
        visible=(*environment.visible, *environment.last, INSIDE, SERVING),
        given=given,
        environment=environment.variables,
        limits=limits,
    )


class _Selected:
    """One selection on its way to a result for every test."""

    def __init__(self, suite: Suite, selection: Selection) -> None:
        self.suite = suite
        self.selection = selection
        self.results: dict[str, TestResult] = {}
        self.broken: dict[str, str] = {}
        self.unsteady: set[str] = set()
        self.lines: dict[str, dict[str, int]] = {}
        self.executable: dict[str, int] = {}
        self.ends: list[Ended] = []

    def whole(self, begun: Heard | None) -> TestRun:
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

    def _fault(self, begun: Heard | None) -> str:
        """Runs everything that `begun` has not; why it is not complete."""
        crashes, most = 0, self.suite.patience.max_crashes
        while True:
            heard = begun or self.suite.start(self.selection, frozenset(self.results))
            begun, ended = None, heard.ended
            assert ended is not None
            self.ends.append(ended)
            self.results |= heard.results
            self.broken |= heard.broken
            self.unsteady |= heard.unsteady
            self.lines |= heard.lines
            self.executable |= heard.executable
            if heard.code is not None:
                return "" if heard.is_regular else _complaint(heard.code, ended)
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
            left = [test for test in heard.collected if test not in self.results]
            if not left:
                return ""
            if crashes > most:
                return f"crashed {crashes} times, and {len(left)} tests did not run"


def _path(path: str) -> str:
    return f"./{path}" if path.startswith("-") else path


def _complaint(code: int, ended: Ended) -> str:
    return f"pytest ended with code {code}" + _last_words(ended)


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
