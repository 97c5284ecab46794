"""Tests found for the commits of a pack that their own tests do not prove, or not wholly.

The commits are validated first. Each answer is in the store, its files among the artefacts, by the
process that found it, so that the same command goes on where it was.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from twin.coding.progress import Progress
from twin.coding.sandbox.cell import open_sandbox
from twin.config import Config
from twin.cycle.harness import PackPlace, read_commit, sides_of, validate_pack
from twin.cycle.workers import spread
from twin.observe.asking import asker
from twin.observe.generators import GENERATORS
from twin.observe.manifest import read_manifest
from twin.observe.proposals import Means
from twin.observe.supplement import RUNNABLE, Supplemented, Supplementer
from twin.observe.validate import Breadth
from twin.records import SandboxLevel, Supplement, Validation
from twin.store.answers import lookup_of
from twin.store.database import Store

VERSION: Final = 2
"""Of what an answer means; a new one asks everything again."""
MODELLESS: Final = tuple(name for name in GENERATORS if name != "backend")


@dataclass(frozen=True, slots=True, kw_only=True)
class SupplementedPack:
    """What was found for a pack."""

    pack: str
    generators: tuple[str, ...]
    num_commits: int
    num_known: int
    """Answered by an earlier run."""
    num_natural: int
    """Valid by their own tests."""
    num_won: int
    """Valid only by generated tests."""
    num_strengthened: int
    """Valid by themselves, with generated tests besides."""
    why: dict[str, int]
    """Reasons of those without an accepted test, most frequent first."""
    accepted: dict[str, int]
    """Accepted files by generator."""
    proposed: dict[str, int]
    mean_coverage: float | None
    """Of the changed lines that can run, over the commits that changed any; None without one."""
    refused: dict[str, str]
    """Machines of a cluster that could not take part, and why."""
    seconds: float
    supplements: tuple[Supplement, ...]


@dataclass(frozen=True)
class _Asked:
    """What a worker is told once."""

    name: str
    pack: PackPlace
    root: Path
    config: Config
    generators: tuple[str, ...]
    model: str
    breadth: Breadth
    level: SandboxLevel | None


def supplement_pack(
    folder: Path,
    store: Store,
    config: Config,
    *,
    generators: Sequence[str] = MODELLESS,
    model: str = "",
    workers: int | None = 1,
    ray: str = "",
    newest: int | None = None,
    breadth: Breadth = "targeted",
    level: SandboxLevel | None = None,
    progress: Progress | None = None,
) -> SupplementedPack:
    """Supplements the commits of a pack, or the `newest` of them; what is known is not run again.

    `model`: whom the generator `backend` asks. Raises KeyError for an unknown generator,
    ConfigError for an unknown model.
    """
    started = time.monotonic()
    for name in generators:
        GENERATORS[name]
    root = store.folder.parent
    if model:
        asker(model, config, root)  # before anything takes time
    place = store.folder / "environments"
    found = validate_pack(
        folder, store, place, workers=workers, ray=ray, newest=newest, breadth=breadth,
        level=level, progress=progress,
    )  # fmt: skip
    chosen = tuple(name for name in GENERATORS if name in generators)
    asked_of = model if "backend" in chosen else ""
    tell = progress or (lambda what, done, total: None)
    told = _Asked(
        name=found.pack, pack=PackPlace.of(folder, place, read_manifest(folder).checksum),
        root=root, config=config, generators=chosen, model=asked_of, breadth=breadth, level=level,
    )  # fmt: skip
    asked = {}
    unrun: dict[str, Supplement] = {}
    for natural, one in found.validations.items():
        key = lookup_of(
            VERSION, found.pack, one.commit_id, one.environment, one.why, breadth, chosen, asked_of
        )
        asked[key] = natural
        if one.why not in RUNNABLE:
            unrun[key] = _unanswered(one, "")
    known = store.supplements.answered(asked)
    left = [key for key in asked if key not in known and key not in unrun]
    tell("supplementing", len(asked) - len(left), len(asked))
    refused = spread(
        store,
        partial(_Supplementing, told),
        ((key, {"lookup": key, "natural": asked[key]}) for key in left),
        workers,
        tell=lambda left: tell("supplementing", len(asked) - left, len(asked)),
        ray=ray,
    )
    answers = unrun | store.supplements.known(asked)
    return _summary(
        found.pack,
        chosen,
        [answers[key] for key in asked],
        num_known=len(known),
        refused=found.refused | refused,
        seconds=time.monotonic() - started,
    )


def _summary(
    pack: str,
    generators: tuple[str, ...],
    found: Sequence[Supplement],
    *,
    num_known: int,
    refused: dict[str, str],
    seconds: float,
) -> SupplementedPack:
    shares = [one.coverage.share for one in found if one.coverage and one.coverage.num_changed]
    proposals = [proposal for one in found for proposal in one.proposals]
    return SupplementedPack(
        pack=pack,
        generators=generators,
        num_commits=len(found),
        num_known=num_known,
        num_natural=sum(not one.natural for one in found),
        num_won=sum(bool(one.natural and one.proof) for one in found),
        num_strengthened=sum(bool(not one.natural and one.proof) for one in found),
        why=dict(Counter(one.why for one in found if one.why).most_common()),
        accepted=dict(Counter(one.generator for one in proposals if not one.why).most_common()),
        proposed=dict(Counter(one.generator for one in proposals).most_common()),
        mean_coverage=sum(shares) / len(shares) if shares else None,
        refused=refused,
        seconds=seconds,
        supplements=tuple(found),
    )


class _Supplementing:
    """Supplements commits of one pack."""

    def __init__(self, asked: _Asked, store: Store) -> None:
        self._asked = asked
        self._store = store
        self._packed = asked.pack.opened()
        self._repository = self._packed.repository()
        self._sandbox = open_sandbox(asked.level)
        ask = asker(asked.model, asked.config, asked.root) if asked.model else None
        self._generators = [GENERATORS[name](Means(ask=ask)) for name in asked.generators]

    def answer(self, told: Any) -> None:
        lookup, natural = told["lookup"], self._natural(told)
        # It was kept, but whoever did so was killed before it could say so.
        if not self._store.supplements.answered([lookup]):
            found = self._supplemented(natural)
            for content in found.contents.values():
                self._store.artifacts.put(content)
            self._store.supplements.add(self._asked.name, lookup, found.record)

    def failure(self, told: Any, reason: str) -> None:
        record = _unanswered(self._natural(told), reason)
        self._store.supplements.add(self._asked.name, told["lookup"], record)

    def close(self) -> None:
        self._repository.close()

    def _natural(self, told: Any) -> Validation:
        return self._store.validations.known([told["natural"]])[told["natural"]]

    def _supplemented(self, natural: Validation) -> Supplemented:
        commit = read_commit(self._repository, natural.commit_id)
        supplementer = Supplementer(
            self._repository,
            self._sandbox,
            self._packed.environment(natural.environment),
            self._generators,
            breadth=self._asked.breadth,
        )
        return supplementer.supplement(commit, sides_of(self._repository, commit), natural)


def _unanswered(natural: Validation, reason: str) -> Supplement:
    return Supplement(
        commit_id=natural.commit_id,
        parent_id=natural.parent_id,
        natural=natural.why,
        why="error" if reason else "not_run",
        detail=reason or natural.detail,
        environment=natural.environment,
    )
