"""Commits proved by their own tests: a repository packed, a pack validated over several processes.

Owns what is run and what counts as answered before. Each answer is in the store before the next one
is waited for, so a campaign that was killed goes on where it was. How work is spread over processes
is in `workers`.
"""

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from twin.coding.changed import Sides
from twin.coding.git import GitRepository
from twin.coding.history import read_history
from twin.coding.paths import role_of
from twin.coding.replay import Progress
from twin.coding.sandbox.cell import open_sandbox
from twin.config import Config
from twin.cycle.past import mine_history
from twin.cycle.workers import Spread
from twin.errors import EnvironmentFailed, UsageError
from twin.observe.interpreters import find_interpreter
from twin.observe.manifest import Manifest, PackedCommit
from twin.observe.mine import AttritionRow
from twin.observe.packing import pack
from twin.observe.packs import Packed, open_pack
from twin.observe.provable import qualifying
from twin.observe.validate import Breadth, Validator
from twin.records import Commit, SandboxLevel, Validation
from twin.store.database import Store
from twin.store.validations import lookup_of

VERSION: Final = 1
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
    validations: tuple[Validation, ...]


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
    workers: int = 1,
    newest: int | None = None,
    breadth: Breadth = "targeted",
    level: SandboxLevel | None = None,
    progress: Progress | None = None,
) -> Validated:
    """Validates the commits of a pack, or the `newest` of them; what is known is not run again."""
    started = time.monotonic()
    packed = open_pack(folder, place)
    assert packed.manifest is not None
    sandbox = open_sandbox(level)
    wanted = packed.manifest.commits[-newest:] if newest else packed.manifest.commits
    name = packed.manifest.name
    asked = {
        one.commit_id: lookup_of(VERSION, name, one.commit_id, one.environment, breadth)
        for one in wanted
    }
    known = store.validations.known(asked.values())
    answers = {commit: known[key] for commit, key in asked.items() if key in known}
    left = [one for one in wanted if one.commit_id not in answers]
    tell = progress or (lambda what, done, total: None)
    tell("validating", len(answers), len(wanted))
    for found in _answered(packed, left, _Asked(folder, place, breadth, sandbox.level), workers):
        store.validations.add(name, asked[found.commit_id], found)
        answers[found.commit_id] = found
        tell("validating", len(answers), len(wanted))
    everything = tuple(answers[one.commit_id] for one in wanted)
    valid = [one for one in everything if one.is_valid]
    return Validated(
        pack=name,
        num_commits=len(everything),
        num_known=len(known),
        num_valid=len(valid),
        why=dict(Counter(one.why for one in everything if one.why).most_common()),
        classes=dict(Counter(c for one in everything for c in one.classes.values()).most_common()),
        levels=sorted({one.level for one in everything if one.level}),
        median_seconds=statistics.median(one.seconds for one in valid) if valid else None,
        seconds=time.monotonic() - started,
        validations=everything,
    )


@dataclass(frozen=True)
class _Asked:
    """What a worker is told once."""

    folder: Path
    place: Path
    breadth: Breadth
    level: SandboxLevel


def _answered(
    packed: Packed, commits: Sequence[PackedCommit], asked: _Asked, workers: int
) -> Iterator[Validation]:
    """The answers, in whatever order they come."""
    assert packed.manifest is not None
    runnable = []
    faults = {one.key: one.fault for one in packed.manifest.environments}
    for key in dict.fromkeys(one.environment for one in commits):
        # Environments are made before the workers need them, each once.
        if faults.get(key) == "":
            try:
                packed.environment(key)
            except EnvironmentFailed as error:
                faults[key] = str(error)
    for one in commits:
        fault = _no_environment(one, faults, packed.manifest.failed)
        if fault:
            yield _unrun(one, fault)
        else:
            runnable.append(one)
    yield from Spread(partial(_Validating, asked), workers).over(runnable)


class _Validating:
    """Validates commits of one pack."""

    def __init__(self, asked: _Asked) -> None:
        self._asked = asked
        # The whole pack was checked by who began this.
        self._packed = open_pack(asked.folder, asked.place, check=False)
        self._repository = self._packed.repository()
        self._sandbox = open_sandbox(asked.level)

    def answer(self, one: PackedCommit) -> Validation:
        environment = self._packed.environment(one.environment)
        validator = Validator(
            self._repository, self._sandbox, environment, breadth=self._asked.breadth
        )
        found = validator.validate(read_commit(self._repository, one.commit_id))
        return replace(found, environment=one.environment)

    def failure(self, one: PackedCommit, reason: str) -> Validation:
        return replace(_unrun(one, reason), why="error")


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
