"""Does a commit's own test suite prove what it did? Runs it before and after, classes each test.

Owns which files run on which tree, and the verdict. A commit is valid with at least one test that
fails before it and passes after it, in every repeat. Whatever the suite does, the answer is a
`Validation` with a reason; only a machine that cannot run anything raises.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal

from twin.coding.git import GitRepository
from twin.coding.parse import parse
from twin.coding.paths import role_of
from twin.coding.sandbox.cell import Sandbox
from twin.coding.sandbox.limits import Limits
from twin.coding.testing.options import FILES, own_options
from twin.coding.testing.results import Selection, TestEnvironment, TestRun
from twin.coding.testing.run import Patience, run_tests
from twin.coding.testing.trees import Tree
from twin.observe.classes import Sides, classify
from twin.records import Commit, TestClass, Validation, WhyInvalid

TEST_MODULE: Final = re.compile(r"(?:.*/)?(?:test_[^/]*|[^/]*_test|tests?)\.py")

NUM_REPEATS: Final = 3
"""With the first run and the one in reverse order, five: a test that fails every other time passes
for a proof once in a thousand."""
QUICK_S: Final = 2.0
"""Tests that take longer than this together run twice, not five times."""

BRIEF: Final = "--tb=line"
"""Where failures are expected: writing out why takes longer than many tests."""

Breadth = Literal["targeted", "full"]
"""`targeted`: the test files that the commit changed. `full`: the whole suite."""


class Validator:
    """Validates commits of one repository with one environment."""

    def __init__(
        self,
        repository: GitRepository,
        sandbox: Sandbox,
        environment: TestEnvironment,
        *,
        breadth: Breadth = "targeted",
        limits: Limits | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._repository = repository
        self._sandbox = sandbox
        self._environment = environment
        self._breadth = breadth
        self._limits = limits or Limits()
        self._patience = patience or Patience()

    def validate(self, commit: Commit) -> Validation:
        """Runs the commit's tests on all sides.

        Raises RepositoryError where git cannot read the commit.
        """
        started = time.monotonic()
        if len(commit.parent_ids) != 1:
            return Validation(commit_id=commit.commit_id, parent_id="", why="no_parent")
        sides = _Trees(self._repository, commit)
        runs: list[TestRun] = []
        why, detail, classes, selection = self._judge(sides, runs)
        return Validation(
            commit_id=commit.commit_id,
            parent_id=commit.parent_ids[0],
            why=why,
            detail=detail,
            classes=classes,
            selection=selection,
            level=runs[0].level if runs else None,
            limiter=runs[0].limiter if runs else "",
            num_runs=len(runs),
            seconds=time.monotonic() - started,
            cpu_s=sum(run.cpu_s for run in runs),
        )

    def _judge(
        self, trees: "_Trees", runs: list[TestRun]
    ) -> tuple[WhyInvalid, str, dict[str, TestClass], tuple[str, ...]]:
        modules = trees.modules()
        if not trees.changed:
            return "no_tests", "", {}, ()
        selection = () if self._breadth == "full" or not modules else tuple(modules)

        def run(tree: Tree, *selected: Selection, brief: bool = False) -> list[TestRun]:
            done = self._run(tree, selected, brief=brief)
            runs.extend(done)
            return done

        every = Selection(paths=selection)
        (before,) = run(trees.before, every, brief=True)
        # The second time in another order, and what may prove the commit more often.
        passing = frozenset(t for t, result in before.results.items() if result.passes)
        turned = replace(every, reverse=True, settled=passing, num_repeats=NUM_REPEATS)
        after, after_again = run(trees.after, every, turned)
        if not any(result.passes for result in after.results.values()):
            return (*_nothing(after), {}, selection)
        at_parent = tuple(path for path in selection if path in trees.parent.names)
        base = None
        if _is_lacking(before, after) and (at_parent or not selection):
            (base,) = run(trees.parent, Selection(paths=at_parent))
        sides = Sides(base=base, old=trees.old_tests(), before=[before], after=[after])
        first = classify(sides)
        wanted = frozenset(_proving(first))
        if not wanted:
            return ("nothing_fails", _unfinished(before, after), first, selection)
        repeats = NUM_REPEATS if _seconds(before, wanted) < QUICK_S else 0
        failing = replace(turned, only=wanted, settled=frozenset(), num_repeats=repeats)
        (before_again,) = run(trees.before, failing, brief=True)
        classes = classify(
            replace(sides, before=[before, before_again], after=[after, after_again])
        )
        if not _proving(classes):
            return "flaky_only", "", classes, selection
        return "", _unfinished(before, after), classes, selection

    def grade(self, commit: Commit, proof: Validation, code: Tree | None = None) -> list[str]:
        """The tests of the commit's proof that do not pass on a tree, in order; none where the tree
        does what the commit did.

        `code` is somebody's attempt on the parent's tree, on which the commit's tests are laid;
        without one, the commit's own tree.
        """
        trees = _Trees(self._repository, commit)
        tree = trees.after if code is None else trees.with_tests(code)
        wanted = [*proof.tests("fail_to_pass"), *proof.tests("pass_to_pass"), *proof.tests("guard")]
        (run,) = self._run(tree, [Selection(paths=proof.selection)])
        return [t for t in wanted if t not in run.results or not run.results[t].passes]

    def _run(
        self, tree: Tree, selections: Sequence[Selection], *, brief: bool = False
    ) -> list[TestRun]:
        return run_tests(
            self._sandbox,
            tree,
            selections,
            self._environment,
            options=(*own_options(tree.texts(FILES)), *([BRIEF] if brief else [])),
            limits=self._limits,
            patience=self._patience,
        )


class _Trees:
    """The trees of a commit's three sides."""

    def __init__(self, repository: GitRepository, commit: Commit) -> None:
        (parent_id,) = commit.parent_ids
        self.changed = [change for change in commit.changes if role_of(change.path) == "test"]
        self.parent = Tree(repository.archive(parent_id))
        self.after = Tree(repository.archive(commit.commit_id))
        present = self.after.names
        kept = [change.path for change in self.changed if change.path in present]
        gone = [path for change in self.changed for path in _left(change.path, change.old_path)]
        self._added = Tree(repository.archive(commit.commit_id, kept) if kept else b"")
        self._gone = set(gone).difference(present)
        self.before = self.with_tests(self.parent)

    def with_tests(self, code: Tree) -> Tree:
        """A tree with the commit's tests."""
        return code.with_those_of(self._added, self._gone) if self.changed else code

    def old_tests(self) -> set[str]:
        """Definitions in the parent's test files, as pytest names tests."""
        paths = [change.old_path or change.path for change in self.changed]
        found: set[str] = set()
        for path, text in self.parent.texts(paths).items():
            if path.endswith(".py"):
                for symbol in parse(text.encode(), "python").symbols:
                    found.add(f"{path}::{symbol.dotted.replace('.', '::')}")
        return found

    def modules(self) -> list[str]:
        """The changed files in which pytest looks for tests."""
        return sorted(
            change.path
            for change in self.changed
            if change.path in self.after.names and TEST_MODULE.fullmatch(change.path)
        )


def _is_lacking(before: TestRun, after: TestRun) -> bool:
    """Whether tests are missing before, so that only the parent's own tests can tell what passed
    there."""
    return bool(before.broken or before.fault or after.results.keys() - before.results.keys())


def _proving(classes: Mapping[str, TestClass]) -> list[str]:
    return [test for test, found in classes.items() if found == "fail_to_pass"]


def _seconds(run: TestRun, tests: frozenset[str]) -> float:
    return sum(run.results[test].seconds for test in tests if test in run.results)


def _left(path: str, old_path: str | None) -> list[str]:
    return [path] if old_path is None else [path, old_path]


def _nothing(after: TestRun) -> tuple[WhyInvalid, str]:
    """Why not one test passes after the commit."""
    if after.fault:
        return ("unfinished" if after.results else "nothing_runs"), after.fault
    if after.results:
        return "nothing_passes", _first(after)
    broken = next(iter(after.broken.values()), "")
    return "nothing_runs", _last_line(broken)


def _first(run: TestRun) -> str:
    return next((_last_line(r.text) for r in run.results.values() if r.text), "")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _unfinished(*runs: TestRun) -> str:
    return next((run.fault for run in runs if run.fault), "")
