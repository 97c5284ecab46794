"""Tasks from faults planted into the newest code of a pack, for repositories with few commits that
prove themselves.

Which faults, and in what order, follows from the code, its tests and a seed. Each answer is in the
store, the file with the fault among the artefacts, before the next one is waited for.
"""

import itertools
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from twin.coding.replay import Progress
from twin.coding.sandbox.cell import open_sandbox
from twin.cycle.harness import read_commit
from twin.cycle.workers import Spread
from twin.errors import UsageError
from twin.observe.manifest import PackedCommit
from twin.observe.mutants import Mutator, Planted
from twin.observe.packs import Packed, open_pack
from twin.records import Mutant, SandboxLevel
from twin.store.database import Store
from twin.store.validations import lookup_of

VERSION: Final = 1
"""Of what an answer means; a new one asks everything again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MutatedPack:
    """What planting faults came to."""

    pack: str
    commit_id: str
    seed: int
    num_tried: int
    num_known: int
    """Answered by an earlier run."""
    num_accepted: int
    why: dict[str, int]
    """Reasons of those that make no task, most frequent first."""
    operators: dict[str, int]
    """Accepted ones by the kind of fault."""
    seconds: float
    mutants: tuple[Mutant, ...]


@dataclass(frozen=True)
class _Asked:
    """What a worker is told once."""

    folder: Path
    place: Path
    commit: PackedCommit
    level: SandboxLevel


def mutate_pack(
    folder: Path,
    store: Store,
    *,
    count: int,
    seed: int = 0,
    workers: int = 1,
    level: SandboxLevel | None = None,
    progress: Progress | None = None,
) -> MutatedPack:
    """Tries `count` faults in the newest commit of a pack that has an environment; what is known is
    not run again. Raises UsageError where no commit has one."""
    started = time.monotonic()
    place = store.folder / "environments"
    packed = open_pack(folder, place)
    assert packed.manifest is not None
    newest = _newest(packed)
    asked = _Asked(folder, place, newest, open_sandbox(level).level)
    tell = progress or (lambda what, done, total: None)
    tell("running the suite", 0, 1)
    worker = _Mutating(asked)
    planted = list(itertools.islice(worker.candidates(seed), count))
    name = packed.manifest.name
    keys = {one: _lookup(name, newest, one) for one in planted}
    known = store.mutants.known(keys.values())
    answers = {one: known[key] for one, key in keys.items() if key in known}
    left = [one for one in planted if one not in answers]
    tell("planting faults", len(answers), len(planted))
    for one, mutant, content in Spread(partial(_Mutating, asked), workers).over(left):
        if content:
            store.artifacts.put(content)
        store.mutants.add(name, keys[one], mutant)
        answers[one] = mutant
        tell("planting faults", len(answers), len(planted))
    mutants = tuple(answers[one] for one in planted)
    accepted = [one for one in mutants if not one.why]
    return MutatedPack(
        pack=name,
        commit_id=newest.commit_id,
        seed=seed,
        num_tried=len(mutants),
        num_known=len(known),
        num_accepted=len(accepted),
        why=dict(Counter(one.why for one in mutants if one.why).most_common()),
        operators=dict(Counter(one.operator for one in accepted).most_common()),
        seconds=time.monotonic() - started,
        mutants=mutants,
    )


class _Mutating:
    """Plants faults into one commit's tree."""

    def __init__(self, asked: _Asked) -> None:
        packed = open_pack(asked.folder, asked.place, check=False)
        repository = packed.repository()
        self._environment = asked.commit.environment
        self._mutator = Mutator(
            repository,
            open_sandbox(asked.level),
            packed.environment(asked.commit.environment),
            read_commit(repository, asked.commit.commit_id),
        )
        self.candidates = self._mutator.candidates

    def answer(self, one: Planted) -> tuple[Planted, Mutant, bytes]:
        mutant, content = self._mutator.judged(one)
        return one, replace(mutant, environment=self._environment), content

    def failure(self, one: Planted, reason: str) -> tuple[Planted, Mutant, bytes]:
        mutant, content = self._mutator.described(one)
        return one, replace(mutant, environment=self._environment, detail=reason), content


def _newest(packed: Packed) -> PackedCommit:
    assert packed.manifest is not None
    usable = {one.key for one in packed.manifest.environments if not one.fault}
    found = [one for one in packed.manifest.commits if one.environment in usable]
    if not found:
        raise UsageError(
            f"No commit of {packed.manifest.name} has an environment in which its tests pass. "
            "`twin packs --json` says why."
        )
    return max(found, key=lambda one: one.time)


def _lookup(pack: str, commit: PackedCommit, planted: Planted) -> str:
    fault = planted.fault
    return lookup_of(
        VERSION, pack, commit.commit_id, commit.environment, planted.path, fault.start, fault.end,
        fault.new,
    )  # fmt: skip
