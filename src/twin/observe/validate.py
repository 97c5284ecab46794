"""Does a commit's own test suite prove what it did? Runs it before and after, classes each test.

Owns which files run on which tree, and the verdict. A commit is valid with at least one test that
fails before it and passes after it, in every repeat. Whatever the suite does, the answer is a
`Validation` with a reason; only a machine that cannot run anything raises.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from twin.coding.git import GitRepository
from twin.coding.parse import parse
from twin.coding.paths import role_of
from twin.coding.sandbox.cell import Sandbox
from twin.coding.sandbox.limits import Limits
from twin.coding.testing.hearing import Patience
from twin.coding.testing.results import Selection, TestEnvironment, TestRun
from twin.coding.testing.run import run_tests
from twin.coding.testing.session import TestSession
from twin.coding.testing.trees import Tree
from twin.observe.classes import Sides, classify, only_reached
from twin.records import Commit, FileChange, TestClass, Validation, WhyInvalid

TEST_MODULE: Final = re.compile(r"(?:.*/)?(?:test_[^/]*|[^/]*_test|tests?)\.py")

NUM_REPEATS: Final = 3
"""With the first run and the second, five: a test that fails every other time passes for a proof
once in a thousand."""
QUICK_S: Final = 2.0
"""Tests that take longer than this together run twice, not five times."""

LONG_S: Final = 5.0
PATIENCE: Final = 50.0
"""A test that takes as many times as long as the slowest after the commit, and `LONG_S`, hangs."""

BRIEF: Final = "--tb=line"
"""Writing out why takes longer than many tests: of 1,240 of which most fail, half of the time."""

Breadth = Literal["targeted", "full"]
"""`targeted`: the test files that the commit changed. `full`: the whole suite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Do these tests tell one tree from another?"""

    before: Tree
    after: Tree
    """With the same tests."""
    parent: Tree
    """What the first was before the tests were laid on it."""
    modules: tuple[str, ...]
    """The files to look for tests in; empty means the whole suite."""
    data: tuple[str, ...] = ()
    """Where no file to look in changed but what tests read: words for it. A test with one of them
    in its name is tried before the whole suite."""
    changed: frozenset[str] = frozenset()
    """The test files that are not the parent's."""
    old: frozenset[str] = frozenset()
    """Tests that the parent's version of them defines, without parameters."""
    only: frozenset[str] | None = None
    """Of what is collected, these node ids alone."""
    generated: frozenset[str] = frozenset()
    """Those of the files that are held to a stricter rule (`only_reached`), since no person says
    that they tell the trees apart."""
    names_differ: bool = True
    """Whether the second tree may have names that the first lacks."""


class _Judged(NamedTuple):
    """What the tests of a selection say."""

    why: WhyInvalid
    detail: str
    classes: dict[str, TestClass]
    selection: tuple[str, ...]


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

    def validate(self, commit: Commit, added: Mapping[str, bytes] | None = None) -> Validation:
        """Runs the commit's tests on all sides; `added` are test files that count as its own.

        Raises RepositoryError where git cannot read the commit.
        """
        started = time.monotonic()
        if len(commit.parent_ids) != 1:
            return Validation(commit_id=commit.commit_id, parent_id="", why="no_parent")
        trees = _Trees(self._repository, commit, added or {})
        if not trees.changed and not added:
            return Validation(
                commit_id=commit.commit_id, parent_id=commit.parent_ids[0], why="no_tests"
            )
        return self._answered(commit, trees.question(tuple(trees.modules())), started)

    def try_out(self, commit: Commit, added: Mapping[str, bytes]) -> Validation:
        """The same of the added test files alone."""
        trees = _Trees(self._repository, commit, added)
        return self._answered(commit, trees.question(tuple(sorted(added))), time.monotonic())

    def tell_apart(self, commit: Commit, question: Question) -> Validation:
        """Whether tests of the commit's own tree tell it from another."""
        return self._answered(commit, question, time.monotonic())

    def watched(self, commit: Commit, proof: Validation, paths: Sequence[str]) -> TestRun:
        """The tests of a validation once more after the commit, with the lines of some files that
        they run."""
        selection = replace(_of(proof), watched=tuple(paths))
        return self._run(_Trees(self._repository, commit, {}).after, selection)

    def run_after(self, commit: Commit, added: Mapping[str, bytes]) -> TestRun:
        """Added test files alone, once, after the commit."""
        tree = _Trees(self._repository, commit, added).after
        return self._run(tree, Selection(paths=tuple(sorted(added))))

    def _answered(self, commit: Commit, question: Question, started: float) -> Validation:
        runs: list[TestRun] = []
        with TestSession(
            self._sandbox,
            self._environment,
            options=(BRIEF,),
            limits=self._limits,
            patience=self._patience,
        ) as session:
            judged = self._judge(session, question, runs)
        return Validation(
            commit_id=commit.commit_id,
            parent_id=commit.parent_ids[0] if commit.parent_ids else "",
            why=judged.why,
            detail=judged.detail,
            classes=judged.classes,
            selection=judged.selection,
            level=runs[0].level if runs else None,
            limiter=runs[0].limiter if runs else "",
            num_runs=len(runs),
            seconds=time.monotonic() - started,
            cpu_s=sum(run.cpu_s for run in runs),
        )

    def _judge(self, session: TestSession, asked: Question, runs: list[TestRun]) -> _Judged:
        if self._breadth == "full":
            return self._judge_selected(session, asked, runs, Selection(only=asked.only))
        if asked.data and not asked.modules:
            found = self._judge_selected(session, asked, runs, Selection(named=asked.data))
            if not found.why:
                return found
        selected = Selection(paths=asked.modules, only=asked.only)
        return self._judge_selected(session, asked, runs, selected)

    def _judge_selected(
        self, session: TestSession, asked: Question, runs: list[TestRun], every: Selection
    ) -> _Judged:
        selection = every.paths

        def run(tree: Tree, selected: Selection) -> TestRun:
            runs.append(session.run(tree, selected))
            return runs[-1]

        if asked.generated:  # of which most do not fail, so that this is all
            before = run(asked.before, every)
            if _all_is_well(before):
                return _Judged("nothing_fails", "", {}, selection)
        after = run(asked.after, every)
        if not any(result.passes for result in after.results.values()):
            return _Judged(*_nothing(after), {}, selection)
        if every.named:
            every = replace(every, named=(), only=frozenset(after.results))
        if not asked.generated:
            before = run(asked.before, replace(every, test_s=_patience_s(after)))
        at_parent = tuple(path for path in selection if path in asked.parent.names)
        base, lacking = None, _lacking(before, after)
        if lacking and (at_parent or not selection):
            base = run(asked.parent, Selection(paths=at_parent, only=lacking))
        sides = Sides(
            base=base, changed=asked.changed, old=asked.old, before=[before], after=[after]
        )
        first = _strict(classify(sides), before, asked)
        wanted = frozenset(_proving(first))
        if not wanted:
            return _Judged("nothing_fails", _unfinished(before, after), first, selection)
        # Whatever the sides disagree about once more: without the rest, in another order.
        telling = wanted.union(test for test, kind in first.items() if kind == "pass_to_fail")
        is_quick = max(_seconds(before, telling), _seconds(after, telling)) < QUICK_S
        again = Selection(
            paths=selection,
            only=telling,
            reverse=True,
            num_repeats=NUM_REPEATS if is_quick else 0,
            test_s=_patience_s(after),
        )
        # A name that is missing before may be another each time the tests are collected.
        made = any(test not in before.results and "[" in test for test in wanted)
        after_again = run(asked.after, replace(again, afresh=made))
        before_again = run(asked.before, again)
        classes = classify(
            replace(sides, before=[before, before_again], after=[after, after_again])
        )
        classes = _strict(classes, before, asked)
        if not _proving(classes):
            return _Judged("flaky_only", "", classes, selection)
        return _Judged("", _unfinished(before, after), classes, selection)

    def grade(
        self,
        commit: Commit,
        proof: Validation,
        code: Tree | None = None,
        added: Mapping[str, bytes] | None = None,
    ) -> list[str]:
        """The tests of the commit's proof that do not pass on a tree, in order; none where the tree
        does what the commit did.

        `code` is somebody's attempt on the parent's tree, on which the commit's tests are laid;
        without one, the commit's own tree. `added` are the proof's generated test files.
        """
        trees = _Trees(self._repository, commit, added or {})
        tree = trees.after if code is None else trees.with_tests(code)
        wanted = [*proof.tests("fail_to_pass"), *proof.tests("pass_to_pass"), *proof.tests("guard")]
        run = self._run(tree, _of(proof))
        return [t for t in wanted if t not in run.results or not run.results[t].passes]

    def _run(self, tree: Tree, selection: Selection) -> TestRun:
        return run_tests(
            self._sandbox,
            tree,
            selection,
            self._environment,
            limits=self._limits,
            patience=self._patience,
        )


class _Trees:
    """The trees of a commit's three sides, with further test files on those that have its own."""

    def __init__(
        self, repository: GitRepository, commit: Commit, added: Mapping[str, bytes]
    ) -> None:
        (parent_id,) = commit.parent_ids
        self.changed = _test_changes(commit)
        self._modules = test_modules(commit)
        self.parent = Tree(repository.archive(parent_id))
        after = Tree(repository.archive(commit.commit_id))
        present = after.names
        kept = [change.path for change in self.changed if change.path in present]
        gone = [path for change in self.changed for path in _left(change.path, change.old_path)]
        own = Tree(repository.archive(commit.commit_id, kept) if kept else b"")
        self._generated = frozenset(added)
        self._laid = own.with_files(added) if added else own
        self._gone = set(gone).difference(present)
        self.after = after.with_files(added) if added else after
        self.before = self.with_tests(self.parent)

    def question(self, modules: tuple[str, ...]) -> Question:
        return Question(
            before=self.before,
            after=self.after,
            parent=self.parent,
            modules=modules,
            data=tuple(self.data()),
            changed=self._generated.union(change.path for change in self.changed),
            old=frozenset(self.old_tests()),
            generated=self._generated,
        )

    def data(self) -> list[str]:
        """The changed files that no test module is, by what tests that read them are called."""
        data = {change.path for change in self.changed if change not in self._modules}
        names = {path.rpartition("/")[2].partition(".")[0] for path in data}
        return sorted(names - {""})

    def with_tests(self, code: Tree) -> Tree:
        """A tree with the commit's tests."""
        is_as_it_was = not self.changed and not self._generated
        return code if is_as_it_was else code.with_those_of(self._laid, self._gone)

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
        """The changed files in which pytest looks for tests, and the added ones."""
        return sorted(self._generated.union(change.path for change in self._modules))


def _of(proof: Validation) -> Selection:
    """The tests of a validation."""
    return Selection(paths=proof.selection, only=frozenset(proof.classes))


def test_modules(commit: Commit) -> list[FileChange]:
    """The files that the commit changed in which pytest looks for tests."""
    return [
        change
        for change in _test_changes(commit)
        if change.new_blob and TEST_MODULE.fullmatch(change.path)
    ]


def _test_changes(commit: Commit) -> list[FileChange]:
    """All that it changed under the tests, data too."""
    return [change for change in commit.changes if role_of(change.path) == "test"]


def _strict(
    classes: Mapping[str, TestClass], before: TestRun, asked: Question
) -> dict[str, TestClass]:
    return only_reached(classes, before, asked.generated, names_differ=asked.names_differ)


def _all_is_well(run: TestRun) -> bool:
    """Whether every test was run and none failed."""
    whole = bool(run.results) and not run.broken and not run.fault and not run.unsteady
    return whole and not any(result.fails for result in run.results.values())


def _lacking(before: TestRun, after: TestRun) -> frozenset[str]:
    """The tests of which only the parent's own can tell whether they passed there."""
    tell, told = (
        {test for test, result in run.results.items() if result.passes or result.fails}
        for run in (after, before)
    )
    return frozenset(tell - told)


def _proving(classes: Mapping[str, TestClass]) -> list[str]:
    return [test for test, found in classes.items() if found == "fail_to_pass"]


def _patience_s(after: TestRun) -> float:
    """How long a test may take that is known to end: many mend what never did."""
    slowest = max(result.seconds for result in after.results.values())
    return max(LONG_S, PATIENCE * slowest)


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
