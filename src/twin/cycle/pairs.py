"""Training pairs: made from a pack's commits and what the store knows of them, counted, exported.

Brings together what `curate.pairs` makes pairs of: the repository at the parent, what was found
there, the proof by tests, the trials. Runs no tests and asks no model: commits that nobody has yet
validated are used as far as they go, and counted. A commit whose pairs were made from the same is
passed over, so a build that was killed goes on where it was.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twin.coding.git import GitRepository
from twin.coding.progress import Progress
from twin.config import Config
from twin.curate.pairs.duplicates import duplicates, signature
from twin.curate.pairs.making import CODE_VERSION, Made, made_of
from twin.curate.pairs.rows import balanced, write_rows
from twin.cycle import harness
from twin.cycle.commit_facts import FactFinder
from twin.cycle.harness import read_commit
from twin.errors import UsageError
from twin.observe.manifest import PackedCommit
from twin.observe.packs import open_pack
from twin.observe.validate import Breadth
from twin.records import Mutant, PairKind, Validation
from twin.store.answers import lookup_of
from twin.store.database import Store
from twin.store.pairs import PairCount
from twin.store.stages import running
from twin.store.trials import Steps

BREADTHS: tuple[Breadth, ...] = ("targeted", "full")


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a build came to. Figures of pairs are of the whole repository, earlier builds too."""

    pack: str
    num_commits: int
    num_known: int
    """Whose pairs had been made from the same before."""
    num_unvalidated: int
    pairs: dict[str, int]
    """By kind."""
    dropped: dict[str, int]
    """`kind: reason` -> pairs that were made and are duplicates."""
    left_out: dict[str, int]
    """`kind: reason` -> pairs that did not come about."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What the store holds."""

    counts: tuple[PairCount, ...]
    left_out: dict[str, dict[str, int]]
    """Repository -> `kind: reason` -> pairs that did not come about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written."""

    file: str
    kind: PairKind
    num_rows: int
    num_tokens: int
    num_passed_over: int
    """Left out so that no repository has too many."""
    repositories: dict[str, int]


def build_pairs(
    folder: Path,
    store: Store,
    config: Config,
    *,
    newest: int | None = None,
    progress: Progress | None = None,
) -> Built:
    """Makes the pairs of a pack's commits, or of the `newest` of them. Twice adds nothing."""
    started = time.monotonic()
    packed = open_pack(folder, store.folder / "environments")
    assert packed.manifest is not None
    name, everything = packed.manifest.name, packed.manifest.commits
    wanted = everything[-newest:] if newest else everything
    tell = progress or (lambda what, done, total: None)
    with packed.repository() as repository, running(
        store, "pairs build", name, config, progress=progress
    ):  # fmt: skip
        known = store.pairs.made_from(name)
        building = _Building(repository, store, config)
        validations = _validations(store, name, wanted)
        mutants = _mutants(store, name)
        num_known = 0
        for done, one in enumerate(wanted):
            tell("making pairs", done, len(wanted))
            trials = store.trials.of_commit(name, one.commit_id)
            validation = validations.get(one.commit_id)
            faults = mutants.get(one.commit_id, [])
            made_from = _made_from(config, validation, trials, faults)
            if known.get(one.commit_id) == made_from:
                num_known += 1
            else:
                building.commit(one, validation, trials, faults, made_from)
        tell("making pairs", len(wanted), len(wanted))
        tell("comparing pairs", 0, 0)
        store.pairs.mark(dict(duplicates(store.pairs.fingerprints())))
    return _built(
        store, name, len(wanted), num_known, len(wanted) - len(validations),
        time.monotonic() - started,
    )  # fmt: skip


def pair_summary(store: Store) -> Summary:
    """What pairs there are, and why there are not more."""
    left_out: dict[str, Counter[str]] = {}
    for repository, reasons in store.pairs.left_out():
        left_out.setdefault(repository, Counter()).update(reasons)
    return Summary(
        counts=tuple(store.pairs.counts()),
        left_out={name: dict(counts.most_common()) for name, counts in sorted(left_out.items())},
    )


def export_pairs(
    store: Store,
    file: Path,
    kind: PairKind,
    *,
    stage: str = "",
    after: float | None = None,
    before: float | None = None,
    only_valid: bool = False,
    max_tokens: int | None = None,
    per_repository: int | None = None,
    max_share: float | None = None,
    seed: int = 0,
) -> Exported:
    """Writes the pairs of one kind to a file, in the order of time.

    Raises UsageError where there are none, or too few repositories for `max_share`.
    """
    listed = store.pairs.listed(
        kind, stage=stage, after=after, before=before, only_valid=only_valid, max_tokens=max_tokens
    )
    if not listed:
        raise UsageError(
            f"There are no such pairs of kind {kind}. `twin pairs` says which there are, and "
            "`twin pairs build PACK` makes them."
        )
    chosen = balanced(listed, per_repository=per_repository, max_share=max_share, seed=seed)
    num_rows = write_rows(file, store.pairs.read(pair.pair_id for pair in chosen))
    return Exported(
        file=str(file),
        kind=kind,
        num_rows=num_rows,
        num_tokens=sum(pair.num_tokens for pair in chosen),
        num_passed_over=len(listed) - len(chosen),
        repositories=dict(Counter(pair.repository for pair in chosen).most_common()),
    )


class _Building:
    """Makes and stores the pairs of one repository's commits."""

    def __init__(self, repository: GitRepository, store: Store, config: Config) -> None:
        self._repository = repository
        self._store = store
        self._config = config
        self._facts = FactFinder(repository, store, config)

    def commit(
        self,
        one: PackedCommit,
        validation: Validation | None,
        trials: Sequence[Steps],
        mutants: Sequence[Mutant],
        made_from: str,
    ) -> None:
        """All pairs of one commit, in one transaction."""
        commit = read_commit(self._repository, one.commit_id)
        facts = self._facts.of(commit, validation, trials, mutants)
        if isinstance(facts, str):
            made = Made(pairs=(), left_out={f"commit: {facts}": 1})
        else:
            made = made_of(facts, max_tokens=self._config.context.window_tokens)
        self._store.pairs.replace(
            repository=self._repository.name,
            commit_id=commit.commit_id,
            parent_id=commit.parent_ids[0],
            commit_time=commit.commit_time,
            made_from=made_from,
            pairs=[(pair, signature(pair)) for pair in made.pairs],
            left_out=made.left_out,
        )


def _validations(store: Store, pack: str, wanted: Sequence[PackedCommit]) -> dict[str, Validation]:
    """What is known of the commits; where both breadths were asked, one that is valid."""
    asked = {
        lookup_of(harness.VERSION, pack, one.commit_id, one.environment, breadth): one.commit_id
        for breadth in BREADTHS
        for one in wanted
    }
    known = store.validations.known(asked)
    found: dict[str, Validation] = {}
    for key, commit_id in asked.items():
        if key in known and (commit_id not in found or not found[commit_id].is_valid):
            found[commit_id] = known[key]
    return found


def _mutants(store: Store, pack: str) -> dict[str, list[Mutant]]:
    """The planted faults that are tasks, by commit."""
    found: dict[str, list[Mutant]] = {}
    for one in store.mutants.of_pack(pack).values():
        if not one.why:
            found.setdefault(one.commit_id, []).append(one)
    return found


def _made_from(
    config: Config,
    validation: Validation | None,
    trials: Sequence[Steps],
    mutants: Sequence[Mutant],
) -> str:
    """A digest of what the pairs of one commit depend on besides the commit."""
    proof = None if validation is None else [validation.why, validation.classes]
    told = [[trial.campaign, trial.number, sorted(trial.results)] for trial in trials]
    window = [config.context.window_tokens, config.context.reserve_tokens]
    return lookup_of(CODE_VERSION, window, proof, told, [one.artifact for one in mutants])


def _built(
    store: Store, name: str, num_commits: int, num_known: int, num_unvalidated: int, seconds: float
) -> Built:
    pairs: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    summary = pair_summary(store)
    for one in summary.counts:
        if one.repository == name and one.dropped_by is None:
            pairs[one.kind] += one.num_pairs
        elif one.repository == name:
            dropped[f"{one.kind}: {one.dropped_by}"] += one.num_pairs
    return Built(
        pack=name,
        num_commits=num_commits,
        num_known=num_known,
        num_unvalidated=num_unvalidated,
        pairs=dict(pairs),
        dropped=dict(dropped.most_common()),
        left_out=summary.left_out.get(name, {}),
        seconds=seconds,
    )
