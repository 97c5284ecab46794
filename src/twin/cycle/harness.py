"""Commits proved by their own tests: a repository packed, a pack validated over several processes.

Owns what is run and what counts as answered before. Each worker keeps its answers in the store
itself, so a campaign that was killed goes on where it was. How work is spread over processes is in
`workers`.
"""

import math
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from twin.coding.changed import Sides
from twin.coding.git import GitRepository
from twin.coding.history import read_commits, read_history
from twin.coding.paths import role_of
from twin.coding.progress import Progress
from twin.coding.sandbox.cell import open_sandbox
from twin.config import Config
from twin.cycle.past import mine_history
from twin.cycle.workers import spread
from twin.errors import EnvironmentFailed, PackDamaged, UsageError
from twin.observe.interpreters import find_interpreter
from twin.observe.manifest import Manifest, PackedCommit
from twin.observe.mine import AttritionRow
from twin.observe.packing import pack
from twin.observe.packs import Packed, open_pack
from twin.observe.provable import qualifying
from twin.observe.validate import Breadth, Validator, test_modules
from twin.records import Commit, SandboxLevel, Validation
from twin.store.answers import Answers, lookup_of
from twin.store.database import Store

VERSION: Final = 5
"""Of what an answer means; a new one asks everything again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """What a campaign over a pack came to."""

    pack: str
    num_commits: int
    num_known: int
    """Answered by an earlier run."""
    num_valid: int
    why: dict[str, int]
    """Reasons of those that are not, most frequent first."""
    classes: dict[str, int]
    """Tests by class, over all commits."""
    levels: list[SandboxLevel]
    median_seconds: float | None
    """Of a valid commit, on one worker; None without any."""
    seconds: float
    refused: dict[str, str]
    """Machines of a cluster that could not take part, and why."""
    validations: Answers[Validation]
    """Read from the store as they are needed."""


def pack_now(
    repository: GitRepository,
    store: Store,
    config: Config,
    out: Path,
    *,
    newest: int | None = None,
    pythons: Sequence[str] = (),
    level: SandboxLevel | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Packs the commits of a repository that can be validated, or the `newest` of them, for these
    `pythons` (paths or versions; this program's own without any).

    Raises UsageError where there is none, MissingRequirement without a sandbox, uv or such a
    Python.
    """
    sandbox = open_sandbox(level)
    interpreters = [find_interpreter(one) for one in pythons]
    mined = mine_history(repository, store, config, progress)
    commits, counts = qualifying(mined, config.mine, partial(all_sides_of, repository))
    if not commits:
        gone = ", ".join(f"{row.removed} {row.rule}" for row in counts if row.removed)
        raise UsageError(
            f"No commit of {repository.name} changes both a few source files and tests; removed "
            f"were {gone or 'none'}. `twin mine` says what the first rules do."
        )
    wanted = commits[-newest:] if newest else commits
    left_out = len(commits) - len(wanted)
    counts.append(AttritionRow(rule="not_asked_for", removed=left_out, remaining=len(wanted)))
    return pack(
        repository, wanted, out, sandbox, pythons=interpreters, counts=counts, tell=progress
    )


def validate_pack(
    folder: Path,
    store: Store,
    place: Path,
    *,
    workers: int | None = 1,
    ray: str = "",
    newest: int | None = None,
    breadth: Breadth = "targeted",
    level: SandboxLevel | None = None,
    progress: Progress | None = None,
) -> Validated:
    """Validates the commits of a pack, or the `newest` of them; what is known is not run again.

    With `ray`, the address of a cluster, its nodes do it.
    """
    started = time.monotonic()
    packed = open_pack(folder, place)
    assert packed.manifest is not None
    if not ray:
        open_sandbox(level)  # before anything takes time
    manifest = packed.manifest
    wanted = manifest.commits[-newest:] if newest else manifest.commits
    asked = _Asked(PackPlace.of(folder, place, manifest.checksum), breadth, level)
    lookups = {one.commit_id: asked.lookup(manifest, one) for one in wanted}
    known = store.validations.answered(lookups.values())
    left = [one for one in wanted if lookups[one.commit_id] not in known]
    runnable = _runnable(packed, left, store, lookups, is_here=not ray)
    num_done = len(wanted) - len(runnable)
    tell = progress or (lambda what, done, total: None)
    tell("validating", num_done, len(wanted))
    refused = spread(
        store,
        partial(_Validating, asked),
        ((lookups[commit_id], commit_id) for commit_id in _longest_first(packed, runnable)),
        workers,
        tell=lambda left: tell("validating", len(wanted) - left, len(wanted)),
        ray=ray,
    )
    answers = store.validations.all_of(list(lookups.values()))
    return replace(
        _summary(manifest.name, answers),
        num_known=len(known),
        seconds=time.monotonic() - started,
        refused=refused,
    )


def _summary(pack: str, answers: Answers[Validation]) -> Validated:
    why: Counter[str] = Counter()
    classes: Counter[str] = Counter()
    levels: set[SandboxLevel] = set()
    seconds: list[float] = []
    for one in answers:
        why[one.why] += 1
        classes.update(one.classes.values())
        if one.level:
            levels.add(one.level)
        if one.is_valid:
            seconds.append(one.seconds)
    num_valid = why.pop("", 0)
    return Validated(
        pack=pack,
        num_commits=len(answers),
        num_known=0,
        num_valid=num_valid,
        why=dict(why.most_common()),
        classes=dict(classes.most_common()),
        levels=sorted(levels),
        median_seconds=statistics.median(seconds) if seconds else None,
        seconds=0.0,
        refused={},
        validations=answers,
    )


@dataclass(frozen=True, slots=True)
class PackPlace:
    """Where a worker finds the pack that whoever began the work checked as a whole."""

    folder: Path
    environments: Path
    checksum: str
    """Of its manifest: on another machine another pack may lie there."""

    @classmethod
    def of(cls, folder: Path, environments: Path, checksum: str) -> "PackPlace":
        """The same wherever a process works."""
        return cls(folder.absolute(), environments.absolute(), checksum)

    def opened(self) -> Packed:
        """Raises PackDamaged for another pack."""
        packed = open_pack(self.folder, self.environments, check=False)
        assert packed.manifest is not None
        if packed.manifest.checksum != self.checksum:
            raise PackDamaged(
                f"{self.folder} is another pack than the one that the work is about. Copy that one "
                "to the same path on every machine."
            )
        return packed


@dataclass(frozen=True)
class _Asked:
    """What a worker is told once."""

    pack: PackPlace
    breadth: Breadth
    level: SandboxLevel | None

    def lookup(self, manifest: Manifest, one: PackedCommit) -> str:
        return lookup_of(VERSION, manifest.name, one.commit_id, one.environment, self.breadth)


def _runnable(
    packed: Packed,
    commits: Sequence[PackedCommit],
    store: Store,
    lookups: Mapping[str, str],
    *,
    is_here: bool,
) -> list[PackedCommit]:
    """The commits that have an environment; that the others have none is their answer. Where the
    work is done here, environments are made before the workers need them, each once."""
    assert packed.manifest is not None
    faults = {one.key: one.fault for one in packed.manifest.environments}
    for key in dict.fromkeys(one.environment for one in commits) if is_here else ():
        if faults.get(key) == "":
            try:
                packed.environment(key)
            except EnvironmentFailed as error:
                faults[key] = str(error)
    runnable = []
    for one in commits:
        fault = _no_environment(one, faults, packed.manifest.failed)
        if fault:
            store.validations.add(packed.manifest.name, lookups[one.commit_id], _unrun(one, fault))
        else:
            runnable.append(one)
    return runnable


def _longest_first(packed: Packed, commits: Sequence[PackedCommit]) -> list[str]:
    """Their ids, so that no worker ends up alone with the longest: by the bytes of the tests that
    are run, and before all others those that run the whole suite."""
    ids = [one.commit_id for one in commits]
    with packed.repository() as repository:
        modules = {
            commit.commit_id: [change.new_blob for change in test_modules(commit)]
            for commit in read_commits(repository, ids)
        }
        sizes = repository.sizes({blob for blobs in modules.values() for blob in blobs})
    num_bytes = {
        commit_id: sum(sizes[blob] or 0 for blob in blobs) if blobs else math.inf
        for commit_id, blobs in modules.items()
    }
    return sorted(ids, key=num_bytes.__getitem__, reverse=True)


class _Validating:
    """Validates commits of one pack, in one process."""

    def __init__(self, asked: _Asked, store: Store) -> None:
        self._asked = asked
        self._store = store
        self._packed = asked.pack.opened()
        assert self._packed.manifest is not None
        self._manifest = self._packed.manifest
        self._commits = {one.commit_id: one for one in self._manifest.commits}
        self._repository = self._packed.repository()
        self._sandbox = open_sandbox(asked.level)

    def answer(self, commit_id: str) -> None:
        one = self._commits[commit_id]
        # It was kept, but whoever did so was killed before it could say so.
        if not self._store.validations.answered([self._asked.lookup(self._manifest, one)]):
            self._keep(one, replace(self._validated(one), environment=one.environment))

    def failure(self, commit_id: str, reason: str) -> None:
        one = self._commits[commit_id]
        self._keep(one, replace(_unrun(one, reason), why="error"))

    def close(self) -> None:
        self._repository.close()

    def _validated(self, one: PackedCommit) -> Validation:
        environment = self._packed.environment(one.environment)
        validator = Validator(
            self._repository, self._sandbox, environment, breadth=self._asked.breadth
        )
        return validator.validate(read_commit(self._repository, one.commit_id))

    def _keep(self, one: PackedCommit, found: Validation) -> None:
        lookup = self._asked.lookup(self._manifest, one)
        self._store.validations.add(self._manifest.name, lookup, found)


def read_commit(repository: GitRepository, commit_id: str) -> Commit:
    """A commit that has a parent."""
    (commit,) = read_history(repository, revision=commit_id, since=f"{commit_id}^")
    return commit


def sides_of(repository: GitRepository, commit: Commit) -> list[Sides]:
    """Both sides of the files, without its tests, that a commit changed."""
    return [one for one in all_sides_of(repository, commit) if role_of(one.change.path) != "test"]


def all_sides_of(repository: GitRepository, commit: Commit) -> list[Sides]:
    """Both sides of every file that a commit changed."""
    blobs = [blob for c in commit.changes for blob in (c.old_blob, c.new_blob) if blob]
    contents = dict(repository.blobs(blobs))
    return [
        Sides(change=c, before=contents.get(c.old_blob), after=contents.get(c.new_blob))
        for c in commit.changes
    ]


def _no_environment(one: PackedCommit, faults: dict[str, str], failed: dict[str, str]) -> str:
    if not one.environment:
        return failed.get(one.commit_id, "no environment was resolved for it")
    return faults.get(one.environment, "its environment is not in the pack")


def _unrun(one: PackedCommit, fault: str) -> Validation:
    return Validation(
        commit_id=one.commit_id,
        parent_id=one.parent_id,
        why="no_environment",
        detail=fault,
        environment=one.environment,
    )
