"""Tests found for the commits of a pack that their own tests do not prove, or not wholly.

The commits are validated first. Each answer is in the store, its files among the artefacts, before
the next one is waited for, so that the same command goes on where it was.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from twin.coding.replay import Progress
from twin.coding.sandbox.cell import open_sandbox
from twin.config import Config
from twin.cycle.harness import read_commit, sides_of, validate_pack
from twin.cycle.workers import Spread
from twin.observe.asking import asker
from twin.observe.generators import GENERATORS
from twin.observe.packs import open_pack
from twin.observe.proposals import Means
from twin.observe.supplement import RUNNABLE, Supplemented, Supplementer
from twin.observe.validate import Breadth
from twin.records import SandboxLevel, Supplement, Validation
from twin.store.database import Store
from twin.store.validations import lookup_of

VERSION: Final = 1
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
    seconds: float
    supplements: tuple[Supplement, ...]


@dataclass(frozen=True)
class _Asked:
    """What a worker is told once."""

    folder: Path
    place: Path
    root: Path
    config: Config
    generators: tuple[str, ...]
    model: str
    breadth: Breadth
    level: SandboxLevel


@dataclass(frozen=True)
class _Item:
    natural: Validation

    def __hash__(self) -> int:
        return hash(self.natural.commit_id)


def supplement_pack(
    folder: Path,
    store: Store,
    config: Config,
    *,
    generators: Sequence[str] = MODELLESS,
    model: str = "",
    workers: int = 1,
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
        folder, store, place, workers=workers, newest=newest, breadth=breadth, level=level,
        progress=progress,
    )  # fmt: skip
    chosen = tuple(name for name in GENERATORS if name in generators)
    asked_of = model if "backend" in chosen else ""
    asked = {
        one.commit_id: lookup_of(
            VERSION, found.pack, one.commit_id, one.environment, one.why, breadth, chosen, asked_of
        )
        for one in found.validations
    }
    known = store.supplements.known(asked.values())
    answers = {commit: known[key] for commit, key in asked.items() if key in known}
    tell = progress or (lambda what, done, total: None)
    told = _Asked(
        folder=folder, place=place, root=root, config=config, generators=chosen, model=asked_of,
        breadth=breadth, level=open_sandbox(level).level,
    )  # fmt: skip
    left = [_Item(one) for one in found.validations if one.commit_id not in answers]
    runnable = [item for item in left if item.natural.why in RUNNABLE]
    answers |= {
        item.natural.commit_id: _unanswered(item, "") for item in left if item not in runnable
    }
    tell("supplementing", len(answers), len(asked))
    for one in Spread(partial(_Supplementing, told), workers).over(runnable):
        for content in one.contents.values():
            store.artifacts.put(content)
        record = one.record
        store.supplements.add(found.pack, asked[record.commit_id], record)
        answers[record.commit_id] = record
        tell("supplementing", len(answers), len(asked))
    return _summary(
        found.pack,
        chosen,
        [answers[one.commit_id] for one in found.validations],
        num_known=len(known),
        seconds=time.monotonic() - started,
    )


def _summary(
    pack: str,
    generators: tuple[str, ...],
    found: Sequence[Supplement],
    *,
    num_known: int,
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
        seconds=seconds,
        supplements=tuple(found),
    )


class _Supplementing:
    """Supplements commits of one pack."""

    def __init__(self, asked: _Asked) -> None:
        self._asked = asked
        self._packed = open_pack(asked.folder, asked.place, check=False)
        self._repository = self._packed.repository()
        self._sandbox = open_sandbox(asked.level)
        ask = asker(asked.model, asked.config, asked.root) if asked.model else None
        self._generators = [GENERATORS[name](Means(ask=ask)) for name in asked.generators]

    def answer(self, item: _Item) -> Supplemented:
        natural = item.natural
        commit = read_commit(self._repository, natural.commit_id)
        supplementer = Supplementer(
            self._repository,
            self._sandbox,
            self._packed.environment(natural.environment),
            self._generators,
            breadth=self._asked.breadth,
        )
        return supplementer.supplement(commit, sides_of(self._repository, commit), natural)

    def failure(self, item: _Item, reason: str) -> Supplemented:
        return Supplemented(_unanswered(item, reason), {})


def _unanswered(item: _Item, reason: str) -> Supplement:
    natural = item.natural
    return Supplement(
        commit_id=natural.commit_id,
        parent_id=natural.parent_id,
        natural=natural.why,
        why="error" if reason else "not_run",
        detail=reason or natural.detail,
        environment=natural.environment,
    )
