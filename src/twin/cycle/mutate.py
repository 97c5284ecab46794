"""Tasks from faults planted into the newest code of a pack, for repositories with few commits that
prove themselves.

Which faults, and in what order, follows from the code, its tests and a seed. Each answer is in the
store, the file with the fault among the artefacts, by the process that found it.
"""

import contextlib
import itertools
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from twin.coding.progress import Progress
from twin.coding.sandbox.cell import open_sandbox
from twin.cycle.harness import PackPlace, read_commit
from twin.cycle.workers import spread
from twin.errors import UsageError
from twin.observe.manifest import PackedCommit
from twin.observe.mutants import Mutator, Planted
from twin.observe.packs import Packed, open_pack
from twin.records import Mutant, SandboxLevel
from twin.store.answers import lookup_of
from twin.store.database import Store

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

    name: str
    pack: PackPlace
    commit: PackedCommit
    level: SandboxLevel | None


def mutate_pack(
    folder: Path,
    store: Store,
    *,
    count: int,
    seed: int = 0,
    workers: int | None = 1,
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
    name, checksum = packed.manifest.name, packed.manifest.checksum
    asked = _Asked(name, PackPlace.of(folder, place, checksum), newest, level)
    tell = progress or (lambda what, done, total: None)
    tell("running the suite", 0, 1)
    with contextlib.closing(_Mutating(asked, store)) as worker:
        found = itertools.islice(worker.candidates(seed), count)
        planted = {_lookup(name, newest, one): one for one in found}
    known = store.mutants.answered(planted)
    tell("planting faults", len(known), len(planted))
    spread(
        store,
        partial(_Mutating, asked),
        (
            (key, {"lookup": key, "planted": msgspec.to_builtins(one)})
            for key, one in planted.items()
            if key not in known
        ),
        workers,
        tell=lambda left: tell("planting faults", len(planted) - left, len(planted)),
    )
    answers = store.mutants.known(planted)
    mutants = tuple(answers[key] for key in planted)
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

    def __init__(self, asked: _Asked, store: Store) -> None:
        self._asked = asked
        self._store = store
        packed = asked.pack.opened()
        self._repository = packed.repository()
        self._mutator = Mutator(
            self._repository,
            open_sandbox(asked.level),
            packed.environment(asked.commit.environment),
            read_commit(self._repository, asked.commit.commit_id),
        )
        self.candidates = self._mutator.candidates

    def answer(self, told: Any) -> None:
        # It was kept, but whoever did so was killed before it could say so.
        if not self._store.mutants.answered([told["lookup"]]):
            self._keep(told, *self._mutator.judged(_planted(told)))

    def failure(self, told: Any, reason: str) -> None:
        mutant, content = self._mutator.described(_planted(told))
        self._keep(told, replace(mutant, detail=reason), content)

    def close(self) -> None:
        self._repository.close()

    def _keep(self, told: Any, mutant: Mutant, content: bytes) -> None:
        if content:
            self._store.artifacts.put(content)
        record = replace(mutant, environment=self._asked.commit.environment)
        self._store.mutants.add(self._asked.name, told["lookup"], record)


def _planted(told: Any) -> Planted:
    return msgspec.convert(told["planted"], Planted)


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
