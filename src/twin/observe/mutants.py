"""Puts faults into code that tests cover, and keeps those that a few tests see, every time.

A mutant is judged as a commit is: the tree with the fault is before, the commit's own tree after;
the tests are those that run the line of the fault. It makes a task where at least one of them fails
because of it, and not so many that whoever mends it need not look for it.
"""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from twin.coding.git import GitRepository
from twin.coding.paths import role_of
from twin.coding.sandbox.cell import Sandbox
from twin.coding.sandbox.limits import Limits
from twin.coding.testing.hearing import Patience
from twin.coding.testing.results import Selection, TestEnvironment
from twin.coding.testing.run import run_tests
from twin.coding.testing.trees import Tree
from twin.observe.coverage import reaching
from twin.observe.mutation import Fault, faults_in, in_turn, is_different, with_fault
from twin.observe.validate import Question, Validator
from twin.records import Commit, Mutant, Validation, WhyDiscarded

MAX_SHARE: Final = 0.2
"""Of the suite's passing tests: what breaks more is found without reading the code."""
ALWAYS: Final = 5
"""So many tests may fail in any suite, however small."""
LIMITS: Final = Limits(wall_s=90)
PATIENCE: Final = Patience(test_s=10, collect_s=30, max_crashes=3)
SUITE_S: Final = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """A fault in a file of a commit's tree, and the tests that run its line."""

    path: str
    fault: Fault
    tests: tuple[str, ...]
    num_passing: int
    """Tests of the whole suite that pass without it."""


class Mutator:
    """Plants faults into the tree of one commit."""

    def __init__(
        self,
        repository: GitRepository,
        sandbox: Sandbox,
        environment: TestEnvironment,
        commit: Commit,
    ) -> None:
        self._sandbox = sandbox
        self._environment = environment
        self._commit = commit
        self._tree = Tree(repository.archive(commit.commit_id))
        self._validator = Validator(
            repository, sandbox, environment, limits=LIMITS, patience=PATIENCE
        )

    def candidates(self, seed: int) -> Iterator[Planted]:
        """Faults in lines that passing tests run, in the order of the seed. Runs the suite."""
        paths = [
            path
            for path in sorted(self._tree.names)
            if path.endswith(".py") and role_of(path) == "source"
        ]
        sources = {
            path: text.encode("utf-8")
            for path, text in self._tree.texts(paths).items()
            if "\N{REPLACEMENT CHARACTER}"
            not in text  # else it would not be written back as it was
        }
        run = run_tests(
            self._sandbox,
            self._tree,
            Selection(watched=tuple(sources)),
            self._environment,
            limits=Limits(wall_s=SUITE_S),
        )
        passing = {test for test, result in run.results.items() if result.passes}
        for path, fault in in_turn({p: faults_in(data) for p, data in sources.items()}, seed):
            tests = tuple(t for t in reaching(path, [fault.line], run) if t in passing)
            if tests and is_different(sources[path], fault):
                yield Planted(path=path, fault=fault, tests=tests, num_passing=len(passing))

    def judged(self, planted: Planted) -> tuple[Mutant, bytes]:
        """What the tests say of a fault, and the file with it."""
        started = time.monotonic()
        mutant, content = self.described(planted)
        files = tuple(sorted({test.partition("::")[0] for test in planted.tests}))
        before = self._tree.with_files({planted.path: content})
        proof = self._validator.tell_apart(
            self._commit,
            Question(
                before=before,
                after=self._tree,
                parent=before,
                modules=files,
                only=frozenset(planted.tests),
                generated=frozenset(files),
                names_differ=False,
            ),
        )
        return replace(
            mutant,
            why=why_not(proof, planted.num_passing),
            detail=proof.detail,
            proof=proof,
            seconds=time.monotonic() - started,
        ), content

    def described(self, planted: Planted) -> tuple[Mutant, bytes]:
        """A mutant of which nothing is known yet, and the file with its fault."""
        fault = planted.fault
        whole = self._tree.texts([planted.path])[planted.path].encode("utf-8")
        content = with_fault(whole, fault)
        return Mutant(
            commit_id=self._commit.commit_id,
            environment="",
            path=planted.path,
            line=fault.line,
            symbol=fault.symbol,
            operator=fault.operator,
            before=whole[fault.start : fault.end].decode("utf-8", "replace"),
            after=fault.new,
            artifact=hashlib.sha256(content).hexdigest(),
            why="error",
            num_passing=planted.num_passing,
        ), content


def why_not(proof: Validation, num_passing: int) -> WhyDiscarded:
    """Why a fault makes no task; empty where it makes one."""
    failing = len(proof.tests("fail_to_pass"))
    if proof.tests("unreached"):
        return "breaks_run"
    if proof.is_valid:
        if failing > max(ALWAYS, MAX_SHARE * num_passing):
            return "breaks_most"
        return "flaky" if proof.tests("flaky") else ""
    if proof.why == "nothing_fails":
        return "unfinished" if proof.detail else "survives"
    return "flaky" if proof.why == "flaky_only" else "unfinished"
