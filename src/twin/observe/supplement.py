"""Finds tests for a commit that its own tests do not prove, or not wholly.

Measures which changed lines the commit's tests run, lets every generator propose, and accepts a
proposal only by the rules of the commit's own tests: it fails before and passes after, every time,
in both orders, in the sandbox. How proposals come about is the generators' business.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from twin.coding.changed import Sides
from twin.coding.git import GitRepository
from twin.coding.sandbox.cell import Sandbox
from twin.coding.sandbox.limits import Limits
from twin.coding.testing.calls import Call, Outcome, outcomes
from twin.coding.testing.hearing import Patience
from twin.coding.testing.results import TestEnvironment, TestRun
from twin.coding.testing.trees import Tree
from twin.errors import BackendError
from twin.observe.coverage import coverage_of, watchable
from twin.observe.proposals import Case, Generator, Proposal
from twin.observe.validate import Breadth, Validator
from twin.records import (
    Commit,
    DiffCoverage,
    ProposedTest,
    Supplement,
    TestClass,
    Validation,
    WhyRejected,
)

RUNNABLE: Final = frozenset({"", "nothing_fails", "flaky_only"})
"""Ends of a validation after which there is something to build on."""
LIMITS: Final = Limits(wall_s=90)
PATIENCE: Final = Patience(test_s=20, collect_s=30, max_crashes=3)
"""What nobody wrote is not worth a long wait."""
MAX_BYTES: Final = 500_000
"""Of a proposed file."""
MAX_PROPOSALS: Final = 20
MAX_MODULES: Final = 10


@dataclass(frozen=True, slots=True)
class Supplemented:
    """What was found, and the proposed files' contents by their SHA-256."""

    record: Supplement
    contents: Mapping[str, bytes]


class Supplementer:
    """Supplements commits of one repository with one environment."""

    def __init__(
        self,
        repository: GitRepository,
        sandbox: Sandbox,
        environment: TestEnvironment,
        generators: Sequence[Generator],
        *,
        breadth: Breadth = "targeted",
    ) -> None:
        self._repository = repository
        self._sandbox = sandbox
        self._environment = environment
        self._generators = generators
        self._own = Validator(repository, sandbox, environment, breadth=breadth)
        self._alone = Validator(repository, sandbox, environment, limits=LIMITS, patience=PATIENCE)

    def supplement(
        self, commit: Commit, files: Sequence[Sides], natural: Validation
    ) -> Supplemented:
        """`files`: both sides of what the commit changed, without its tests; `natural`: what its
        own tests show."""
        started = time.monotonic()
        known = Supplement(
            commit_id=commit.commit_id,
            parent_id=natural.parent_id,
            natural=natural.why,
            why="not_run",
            environment=natural.environment,
        )
        if natural.why not in RUNNABLE:
            return Supplemented(known, {})
        run = self._own.watched(commit, natural, watchable(files))
        coverage = coverage_of(files, run)
        known = replace(known, coverage=coverage)
        if natural.is_valid and coverage.share == 1:
            found = replace(known, why="covered")
            return Supplemented(replace(found, seconds=time.monotonic() - started), {})
        case = self._case(commit, files, natural, coverage, run)
        contents: dict[str, bytes] = {}
        tried: list[ProposedTest] = []
        faults: list[str] = []
        for proposal in self._proposals(case, faults):
            one = self._judged(commit, proposal)
            contents[one.artifact] = proposal.content.encode("utf-8", "replace")
            tried.append(one)
        found = replace(known, proposals=tuple(tried), detail="; ".join(faults))
        found = self._concluded(commit, natural, found, contents)
        return Supplemented(replace(found, seconds=time.monotonic() - started), contents)

    def _case(
        self,
        commit: Commit,
        files: Sequence[Sides],
        natural: Validation,
        coverage: DiffCoverage,
        run: TestRun,
    ) -> Case:
        after = Tree(self._repository.archive(commit.commit_id))
        modules = dict.fromkeys(test.partition("::")[0] for test in natural.classes)
        paths = natural.selection or list(modules)[:MAX_MODULES]
        return Case(
            commit=commit,
            files=files,
            tests=after.texts(paths),
            natural=natural,
            coverage=coverage,
            run=run,
            roots=after.roots,
            probe=_Probe(
                self._sandbox,
                self._environment,
                self._alone,
                commit,
                Tree(self._repository.archive(natural.parent_id)),
                after,
            ),
        )

    def _proposals(self, case: Case, faults: list[str]) -> Iterator[Proposal]:
        """Each path once; a model that does not answer costs its own proposals."""
        seen: set[str] = set()
        for generator in self._generators:
            try:
                for one in generator.propose(case):
                    if len(seen) < MAX_PROPOSALS and len(one.content) <= MAX_BYTES:
                        if one.path not in seen:
                            yield one
                        seen.add(one.path)
            except BackendError as error:
                faults.append(str(error))

    def _judged(self, commit: Commit, proposal: Proposal) -> ProposedTest:
        content = proposal.content.encode("utf-8", "replace")
        found = self._alone.try_out(commit, {proposal.path: content})
        return ProposedTest(
            generator=proposal.generator,
            path=proposal.path,
            artifact=hashlib.sha256(content).hexdigest(),
            why=_rejected(found),
            classes=found.classes,
        )

    def _concluded(
        self, commit: Commit, natural: Validation, found: Supplement, contents: Mapping[str, bytes]
    ) -> Supplement:
        """With the proof that the accepted files make together with the commit's own."""
        accepted = {one.path: one.artifact for one in found.proposals if not one.why}
        if not accepted:
            return replace(found, why="nothing_accepted" if found.proposals else "nothing_proposed")
        added = {path: contents[digest] for path, digest in accepted.items()}
        proof = self._own.validate(commit, added)
        kept = {test: kind for test, kind in proof.classes.items() if _counts(test, kind, accepted)}
        proving = {test.partition("::")[0] for test, kind in kept.items() if kind == "fail_to_pass"}
        used = {path: digest for path, digest in accepted.items() if path in proving}
        if not used:
            return replace(found, why="not_together")
        proof = replace(proof, classes=kept, generated=used, environment=natural.environment)
        return replace(found, why="", proof=proof)


@dataclass(frozen=True, slots=True)
class _Probe:
    """The two sides of one commit."""

    sandbox: Sandbox
    environment: TestEnvironment
    validator: Validator
    commit: Commit
    before: Tree
    after: Tree

    def outcomes(self, calls: Sequence[Call]) -> Iterator[tuple[Outcome | None, Outcome | None]]:
        if calls:
            before, after = (
                outcomes(self.sandbox, tree, self.environment, calls)
                for tree in (self.before, self.after)
            )
            yield from zip(before, after, strict=True)

    def tests(self, path: str, content: str) -> TestRun:
        return self.validator.run_after(self.commit, {path: content.encode("utf-8", "replace")})


def _rejected(found: Validation) -> WhyRejected:
    if found.is_valid:
        return ""
    if found.why in ("flaky_only", "nothing_passes"):
        return "flaky" if found.why == "flaky_only" else "fails_after"
    if found.why != "nothing_fails":
        return "nothing_runs"
    return "unreached" if found.tests("unreached") else "passes_before"


def _counts(test: str, kind: TestClass, generated: Mapping[str, str]) -> bool:
    """Of a generated file only what proves something."""
    return kind == "fail_to_pass" or test.partition("::")[0] not in generated
