"""The past and the present of a repository, brought up to date in the store: history, tasks, index.

Owns what is read anew and what the store knows already. Learns nothing (`improvement`) and answers
nothing (`answers`).
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from twin.coding.git import GitRepository
from twin.coding.history import read_history
from twin.coding.index import build_snapshot
from twin.coding.languages import language_of
from twin.coding.progress import Progress
from twin.config import Config
from twin.curate.tasks import localisation_tasks
from twin.errors import RepositoryError, UsageError
from twin.observe.mine import AttritionRow, attrition, mine
from twin.records import MinedCommit, Task
from twin.store.database import Store
from twin.store.stages import key_of, running

TOLD_EVERY: Final = 100
"""Commits between two words to whoever watches."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mined:
    """What `twin mine` found."""

    repository: str
    head: str
    num_commits: int
    num_new: int
    """Commits that were not mined before."""
    num_kept: int
    attrition: tuple[AttritionRow, ...]
    labels: dict[str, int]
    """Commits per label, most frequent first; a commit may have several."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    """What `twin index` found in HEAD."""

    repository: str
    head: str
    num_files: int
    """Files that could be read; `num_skipped` of a known language were not worth it."""
    num_skipped: int
    num_symbols: int
    num_imports: int
    """Edges between files."""
    languages: dict[str, int]
    """Files per language, most frequent first."""
    num_parsed: int
    """Distinct contents parsed now; the others had been parsed before."""
    num_cached: int
    seconds: float


def mine_history(
    repository: GitRepository, store: Store, config: Config, progress: Progress | None = None
) -> list[MinedCommit]:
    """Every mined commit up to HEAD, oldest first, from the store where it is up to date.

    New commits on top of what is stored are mined alone; a rewritten history is mined anew.
    """
    head = repository.head()
    name = _history_name(repository, config)
    known = store.history.head(name)
    if known != head:
        if known is not None and _is_ancestor(repository, known, head):
            new = _counted(read_history(repository, revision=head, since=known), progress)
            store.history.append(name, head, mine(new, config.mine))
        else:
            everything = _counted(read_history(repository, revision=head), progress)
            store.history.replace(name, head, mine(everything, config.mine))
    return store.history.commits(name)


def is_mined(repository: GitRepository, store: Store, config: Config) -> bool:
    """Whether the history was ever read: whoever answers on the side does not begin with it."""
    return store.history.head(_history_name(repository, config)) is not None


def _counted(items: Iterable[Item], progress: Progress | None) -> Iterator[Item]:
    """The items; whoever watches is told now and then how many there were."""
    for number, item in enumerate(items, start=1):
        if progress is not None and number % TOLD_EVERY == 0:
            progress("reading history", number, 0)
        yield item


def mine_now(
    repository: GitRepository, store: Store, config: Config, *, progress: Progress | None = None
) -> Mined:
    """Brings the mined history up to date and counts what became of it."""
    started = time.perf_counter()
    with running(store, "mine", repository.name, config, progress=progress):
        known = store.history.head(_history_name(repository, config))
        before = len(store.history.commits(_history_name(repository, config))) if known else 0
        mined = mine_history(repository, store, config, progress)
    rewritten = known is not None and not _is_ancestor(repository, known, repository.head())
    labels = Counter(label.name for one in mined for label in one.labels)
    return Mined(
        repository=repository.name,
        head=repository.head(),
        num_commits=len(mined),
        num_new=len(mined) - (0 if rewritten else before),
        num_kept=sum(one.dropped_by is None for one in mined),
        attrition=tuple(attrition(mined, config.mine)),
        labels=dict(sorted(labels.items(), key=lambda label: (-label[1], label[0]))),
        seconds=round(time.perf_counter() - started, 3),
    )


def index_now(
    repository: GitRepository, store: Store, config: Config, *, progress: Progress | None = None
) -> Indexed:
    """Indexes HEAD, parsing only contents that were never seen before.

    Raises RepositoryError where there is no source file.
    """
    require_sources(repository)
    started = time.perf_counter()
    parsed = 0

    def tell(done: int, total: int) -> None:
        nonlocal parsed
        parsed = total
        if progress is not None:
            progress("indexing", done, total)

    with running(store, "index", repository.name, config, progress=progress):
        head = repository.head()
        snapshot = build_snapshot(repository, store.blobs, head, tell)
        store.snapshots.put(repository.name, head, dict(snapshot.files))
    files = list(snapshot.parsed.values())
    known = [path for path in snapshot.files if language_of(path)]
    return Indexed(
        repository=repository.name,
        head=head,
        num_files=len(files),
        num_skipped=snapshot.num_skipped,
        num_symbols=sum(len(file.symbols) for file in files),
        num_imports=sum(map(len, snapshot.imports.values())),
        languages=dict(Counter(file.language for file in files).most_common()),
        num_parsed=parsed,
        num_cached=len({snapshot.files[path] for path in known}) - parsed,
        seconds=round(time.perf_counter() - started, 3),
    )


def require_sources(repository: GitRepository) -> None:
    """Raises RepositoryError where HEAD has no file that could ever be an answer."""
    if not any(language_of(path) for path in repository.tree(repository.head())):
        raise RepositoryError(
            f"{repository.root} has no source file in a language that the index reads (Python, "
            "JavaScript, TypeScript, Go, Rust, Java, C, C++). Choose a repository with one."
        )


def _history_name(repository: GitRepository, config: Config) -> str:
    """Other rules judge commits otherwise: each set of rules has a history of its own."""
    return f"{repository.name} {key_of([msgspec.to_builtins(config.mine)])[:8]}"


def _is_ancestor(repository: GitRepository, older: str, newer: str) -> bool:
    try:
        return repository.is_ancestor(older, newer)
    except UsageError:
        return False  # the old head is gone: the history was rewritten


def newest_tasks(
    repository: GitRepository, mined: Sequence[MinedCommit], config: Config
) -> list[Task]:
    """The localisation tasks of a history, the newest `max_tasks` of them, by time.

    A task whose targets are not all in a language that the index reads has no right answer here.
    """
    tasks = localisation_tasks(mined, repository.name, repository.tree)
    answerable = [task for task in tasks if all(map(language_of, task.targets))]
    return answerable[-config.fit.max_tasks :]
