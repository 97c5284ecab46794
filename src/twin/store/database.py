"""Opens the store: where its files are, and the rooms' one handle on all of its tables.

Owns the folder `.twin` and the order in which a store comes up (folder, connection, schema). What
is in the tables belongs to the modules next to this one.
"""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Engine

from twin.store import faults, schema
from twin.store.answers import mutant_log, supplement_log, validation_log
from twin.store.artifacts import Artifacts
from twin.store.blobs import BlobCache
from twin.store.calls import CallLog
from twin.store.decisions import DecisionLog
from twin.store.engine import Database, database_url
from twin.store.history import HistoryTable
from twin.store.keys import KeyRing
from twin.store.outcomes import Outcomes
from twin.store.pairs import PairTable
from twin.store.queue import WorkQueue
from twin.store.registry import Registry
from twin.store.runs import RunLog, forget_stages
from twin.store.sessions import Sessions
from twin.store.snapshots import Snapshots
from twin.store.trials import TrialLog
from twin.store.upgrade import upgrade

FOLDER = ".twin"
DEFAULT_WAIT_S = 30.0
"""Longer than the longest transaction here, writing a history of 100,000 commits; shorter than a
user's patience."""


@dataclass(frozen=True, slots=True)
class Address:
    """What another process needs to open the same store. Holds the database's password, if any."""

    root: Path
    url: str = field(repr=False)

    def open(self) -> "Store":
        """The store, open."""
        return open_store(self.root, self.url)


class Store:
    """The only memory. Safe to share between threads; each process opens its own."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self.folder = folder
        """`.twin`: holds artefacts and, unless PostgreSQL does, the database."""
        self.artifacts = Artifacts(folder / "artifacts")
        self.blobs = BlobCache(database)
        self.calls = CallLog(database)
        self.decisions = DecisionLog(database)
        self.history = HistoryTable(database)
        self.keys = KeyRing(database)
        self.mutants = mutant_log(database)
        self.outcomes = Outcomes(database)
        self.pairs = PairTable(database)
        self.queue = WorkQueue(database)
        self.registry = Registry(database)
        self.runs = RunLog(database)
        self.sessions = Sessions(database)
        self.snapshots = Snapshots(database)
        self.supplements = supplement_log(database)
        self.trials = TrialLog(database)
        self.validations = validation_log(database)

    @property
    def engine(self) -> Engine:
        """For queries that no method here answers. Raw tables refuse changes."""
        return self._database.engine

    @property
    def place(self) -> str:
        """The database's file or URL, without its password."""
        return self._database.place

    @property
    def address(self) -> Address:
        """For the other processes of this program."""
        url = self._database.engine.url.render_as_string(hide_password=False)
        return Address(self.folder.parent.absolute(), url)

    def rebuild_curated(self) -> None:
        """Drops every curated table and makes it again, empty but for what raw knows.

        The status of model versions comes back at once; history, caches and snapshots with the next
        `twin improve`, which no longer takes its stages for finished. All or nothing.
        """
        tables = schema.tables_of("curated")
        with self._database.writing() as connection:
            self._database.one_at_a_time(connection, "registry")
            schema.metadata.drop_all(connection, tables=tables)
            schema.metadata.create_all(connection, tables=tables)
            self.registry.replay(connection)
            forget_stages(connection)

    def close(self) -> None:
        """Gives the connections back; a store can be closed twice."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_store(root: Path, url: str = "", *, wait_s: float = DEFAULT_WAIT_S) -> Store:
    """Opens the store of the repository at `root`, and makes or migrates it where needed.

    `url` empty means SQLite in `root/.twin`; `postgresql://...` keeps the tables there and the
    artefacts still in `root/.twin`. `wait_s` is how long a writer waits for another process.
    Raises StoreError and its kinds, MissingRequirement, ConfigError.
    """
    folder = root / FOLDER
    settled = database_url(url, folder / "twin.db")
    try:
        _make_folder(folder)
    except OSError as error:
        raise faults.of_disk(error, str(folder)) from error
    database = Database(settled, wait_s=wait_s)
    try:
        with faults.translated(database.place):
            upgrade(database)
    except BaseException:
        database.close()
        raise
    return Store(database, folder)


def journal_folder(root: Path) -> Path:
    """Where the gateway leaves its records for this store, whether or not the store can be
    opened."""
    return root / FOLDER / "journal"


def _make_folder(folder: Path) -> None:
    """`.twin`, which tells git to look away: a user's repository stays as clean as it was."""
    folder.mkdir(exist_ok=True)
    ignore = folder / ".gitignore"
    if ignore.exists():
        return
    handle, unfinished = tempfile.mkstemp(prefix=".gitignore-", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write("# Made by twin; nothing here belongs into the repository.\n*\n")
        Path(unfinished).chmod(0o644)
        os.replace(unfinished, ignore)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
