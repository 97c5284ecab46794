"""Commits proved by their own tests: a repository packed, a pack validated over several processes.

Owns what is run at once, what counts as answered before, and that a commit on which this program
itself fails is tried three times and then recorded as such. Each answer is in the store before the
next one is waited for, so a campaign that was killed goes on where it was.
"""

import multiprocessing
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from twin.coding.git import GitRepository
from twin.coding.history import read_history
from twin.coding.replay import Progress
from twin.coding.sandbox.cell import open_sandbox
from twin.config import Config
from twin.cycle.past import mine_history
from twin.errors import TwinError, UsageError
from twin.observe.environments import EnvironmentFailed
from twin.observe.packs import Manifest, Packed, PackedCommit, open_pack, pack, qualifying
from twin.observe.validate import Breadth, Validator
from twin.records import Commit, SandboxLevel, Validation
from twin.store.database import Store
from twin.store.validations import lookup_of

TRIES: Final = 3
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
    level: SandboxLevel | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Packs the commits of a repository that can be validated, or the `newest` of them.

    Raises UsageError where there is none, MissingRequirement without a sandbox or uv.
    """
    sandbox = open_sandbox(level)
    commits = qualifying(mine_history(repository, store, config, progress))
    if not commits:
        raise UsageError(
            f"No commit of {repository.name} changes both a few source files and tests. "
            "`twin mine` says what each rule removed."
        )
    return pack(repository, commits[-newest:] if newest else commits, out, sandbox, tell=progress)


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
    runnable = []
    assert packed.manifest is not None
    faults = {one.key: one.fault for one in packed.manifest.environments}
    for one in commits:
        fault = _no_environment(one, faults, packed.manifest.failed)
        if fault:
            yield _unrun(one, fault)
        else:
            runnable.append(one)
    if not runnable:
        return
    # Environments are made before the workers need them, each once.
    for key in dict.fromkeys(one.environment for one in runnable):
        try:
            packed.environment(key)
        except EnvironmentFailed as error:
            faults[key] = str(error)
    for one in [one for one in runnable if faults[one.environment]]:
        runnable.remove(one)
        yield _unrun(one, faults[one.environment])
    if workers == 1:
        worker = _Worker(asked)
        for one in runnable:
            yield _three_times(worker, one)
    else:
        yield from _in_processes(runnable, asked, workers)


def _in_processes(
    commits: Sequence[PackedCommit], asked: _Asked, workers: int
) -> Iterator[Validation]:
    """Several processes, each with as much work as it can begin: memory does not grow with the
    number of commits."""
    context = multiprocessing.get_context("spawn")
    tries: Counter[str] = Counter()
    waiting = list(reversed(commits))
    while waiting:
        pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(asked,))
        running: dict[Future[Validation], PackedCommit] = {}
        try:
            while waiting or running:
                while waiting and len(running) < 2 * workers:
                    running[pool.submit(_validate, waiting[-1])] = waiting[-1]
                    waiting.pop()
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    answer = done.result()
                    del running[done]
                    yield answer
        except BrokenProcessPool:
            # A worker was killed; nobody knows over which commit, so all that were begun count.
            for one in running.values():
                tries[one.commit_id] += 1
                if tries[one.commit_id] >= TRIES:
                    yield _failed(one, "its worker was killed")
                else:
                    waiting.append(one)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_worker: "_Worker | None" = None


def _begin(asked: _Asked) -> None:
    """In a worker process, once."""
    global _worker
    _worker = _Worker(asked)


def _validate(one: PackedCommit) -> Validation:
    """In a worker process."""
    worker = _worker
    assert worker is not None
    return _three_times(worker, one)


def _three_times(worker: "_Worker", one: PackedCommit) -> Validation:
    """The answer, or after three failures of this program itself their reason."""
    for _ in range(TRIES):
        try:
            return worker.validate(one)
        except (TwinError, OSError, EnvironmentFailed) as error:
            reason = f"{type(error).__name__}: {error}"
    return _failed(one, reason)


class _Worker:
    """Validates commits of one pack."""

    def __init__(self, asked: _Asked) -> None:
        self._asked = asked
        # The whole pack was checked by who began this.
        self._packed = open_pack(asked.folder, asked.place, check=False)
        self._repository = self._packed.repository()
        self._sandbox = open_sandbox(asked.level)

    def validate(self, one: PackedCommit) -> Validation:
        environment = self._packed.environment(one.environment)
        validator = Validator(
            self._repository, self._sandbox, environment, breadth=self._asked.breadth
        )
        found = validator.validate(self._commit(one.commit_id))
        return replace(found, environment=one.environment)

    def _commit(self, commit_id: str) -> Commit:
        (commit,) = read_history(self._repository, revision=commit_id, since=f"{commit_id}^")
        return commit


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


def _failed(one: PackedCommit, reason: str) -> Validation:
    return replace(_unrun(one, reason), why="error")


def default_workers() -> int:
    """One for each core this process may use."""
    return len(os.sched_getaffinity(0))
