"""Connections and transactions: the one way in which every table of the store is read or written.

Owns how long a writer waits, how durable a commit is and what a reader sees, for both databases.
Knows no table.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    URL,
    Boolean,
    Connection,
    Engine,
    Insert,
    LargeBinary,
    Table,
    create_engine,
    event,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError
from sqlalchemy.types import TypeEngine

from twin.errors import ConfigError, MissingRequirement
from twin.store.columns import AnyText, is_stored_as_it_is, to_stored
from twin.store.faults import translated

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

_BEGIN = "twin_begin"
_DURABLE = "twin_durable"


class Database:
    """One SQLite file or one PostgreSQL database. Safe to share between threads."""

    def __init__(self, url: URL, *, wait_s: float) -> None:
        """Connects to nothing yet. `wait_s` is how long a writer waits for another one."""
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.place = str(url.database) if self.is_sqlite else url.render_as_string()
        self.engine = _sqlite(url, wait_s) if self.is_sqlite else _postgresql(url, wait_s)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction in which every statement sees the same moment."""
        with translated(self.place), self._begun({_BEGIN: "DEFERRED"}) as connection:
            if not self.is_sqlite:
                connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            yield connection

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Connection]:
        """A transaction that is either all there at the end or not at all.

        On SQLite it takes the only writer's place at once, so that what it reads stays true until
        it commits. `durable` survives a power cut; without it the last transactions can be lost in
        one (never with a killed process), which is good enough for what can be made again and
        spares the wait for the disk.
        """
        options = {_BEGIN: "IMMEDIATE", _DURABLE: durable}
        with translated(self.place), self._begun(options) as connection:
            if not self.is_sqlite and not durable:
                connection.execute(text("SET LOCAL synchronous_commit TO off"))
            yield connection

    def one_at_a_time(self, connection: Connection, what: str) -> None:
        """Makes other transactions that ask for the same `what` wait until this one ends."""
        if not self.is_sqlite:  # A writing transaction on SQLite is alone already.
            lock = text("SELECT pg_advisory_xact_lock(hashtextextended(:what, 0))")
            connection.execute(lock, {"what": to_stored(f"twin:{what}")})

    def insert_new(self, table: Table) -> Insert:
        """An INSERT that leaves rows alone which are there already."""
        return self._insert(table).on_conflict_do_nothing()

    def insert_or_replace(self, table: Table, *replaced: str) -> Insert:
        """An INSERT that overwrites the columns `replaced` where the primary key is there."""
        into = self._insert(table)
        return into.on_conflict_do_update(
            index_elements=list(table.primary_key.columns),
            set_={name: into.excluded[name] for name in replaced},
        )

    def insert_or_add(self, table: Table, *added: str) -> Insert:
        """An INSERT that adds to the columns `added` where the primary key is there."""
        into = self._insert(table)
        return into.on_conflict_do_update(
            index_elements=list(table.primary_key.columns),
            set_={name: table.c[name] + into.excluded[name] for name in added},
        )

    def _insert(self, table: Table) -> "postgresql.Insert | sqlite.Insert":
        """The dialect's own INSERT, which knows about conflicts. Imported here: a tenth of a second
        for the database that is not used."""
        if self.is_sqlite:
            from sqlalchemy.dialects import sqlite

            return sqlite.insert(table)
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)

    def insert_rows(
        self, connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]
    ) -> None:
        """Inserts many rows, each with a value for every column in the table's order.

        Three times as fast as SQLAlchemy's own, which handles a dict per row: that is what a
        history of 100,000 changes is written with.
        """
        stored = _as_stored(connection, table, rows)
        names = ", ".join(f'"{column.name}"' for column in table.columns)
        driver: Any = connection.connection
        if self.is_sqlite:
            marks = ", ".join("?" * len(table.columns))
            driver.executemany(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", stored)
            return
        with (
            driver.cursor() as cursor,
            cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy,
        ):
            for row in stored:
                copy.write_row(row)

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _begun(self, options: dict[str, Any]) -> Iterator[Connection]:
        with self.engine.connect() as connection:
            connection = connection.execution_options(**options)
            with connection.begin():
                yield connection


def database_url(url: str, default: Path) -> URL:
    """Checks the configured `store.url`; empty means the SQLite file `default`."""
    if not url:
        return URL.create("sqlite", database=str(default))
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            "`store.url` is not a URL. Write it as `postgresql://user@host/database`, or leave it "
            "empty for SQLite."
        ) from error
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed.set(drivername="sqlite")
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    raise ConfigError(
        f"`store.url` names `{backend}`, which cannot hold the store. Use "
        "`postgresql://user@host/database` or `sqlite:////path/to/file.db`."
    )


def _as_stored(
    connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]
) -> Iterable[tuple[Any, ...]]:
    """The rows with every value as its column's type writes it; done by column, which is faster."""
    given = list(zip(*rows, strict=True))
    columns = [
        _column_as_stored(connection, column.type, values)
        for column, values in zip(table.columns, given, strict=True)
    ]
    if all(column is values for column, values in zip(columns, given, strict=True)):
        return rows  # The usual case for traffic.
    return zip(*columns, strict=True)


def _column_as_stored(
    connection: Connection, kind: TypeEngine[Any], values: tuple[Any, ...]
) -> Iterable[Any]:
    if isinstance(kind, Boolean | LargeBinary):
        return values  # Both drivers take them as they are.
    if isinstance(kind, AnyText) and is_stored_as_it_is("".join(filter(None, values))):
        return values  # One look at all of them: most columns of most batches are plain.
    convert = kind.dialect_impl(connection.dialect).bind_processor(connection.dialect)
    return map(convert, values) if convert else values


def _sqlite(url: URL, wait_s: float) -> Engine:
    # Messages of unforeseen errors end up in logs, where recorded prompts must not be.
    engine = create_engine(url, connect_args={"timeout": wait_s}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _record: object) -> None:
        # The driver's own BEGIN is always deferred; ours says which kind (`_begun` below).
        connection.isolation_level = None
        _enter_wal(connection, wait_s)
        for pragma in (
            "foreign_keys = ON",
            # Else `INSERT OR REPLACE` deletes rows of raw tables behind their triggers' back.
            "recursive_triggers = ON",
            # A large transaction leaves a large log file behind; this gives the space back.
            "journal_size_limit = 67108864",
            "cache_size = -32000",
            "temp_store = MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        options = connection.get_execution_options()
        if _DURABLE in options:
            # In WAL mode FULL waits for the disk at each commit, NORMAL only at checkpoints.
            # Neither can damage the file. FULL also makes everything committed before it durable.
            level = "FULL" if options[_DURABLE] else "NORMAL"
            connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
        connection.exec_driver_sql(f"BEGIN {options.get(_BEGIN, 'DEFERRED')}")

    return engine


def _enter_wal(connection: sqlite3.Connection, wait_s: float) -> None:
    """WAL: readers never wait for the writer. A property of the file, so usually set already.

    Two processes that open a new file at once can collide here without SQLite's own waiting.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
            if not busy or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)


def _postgresql(url: URL, wait_s: float) -> Engine:
    settings = f"-c lock_timeout={int(wait_s * 1000)} -c timezone=UTC"
    given = url.query.get("options")
    arguments = {
        "connect_timeout": 10,
        "client_encoding": "utf8",
        "application_name": "twin",
        "options": f"{given} {settings}" if given else settings,
    }
    try:
        return create_engine(url, connect_args=arguments, pool_pre_ping=True, hide_parameters=True)
    except ModuleNotFoundError as error:
        raise MissingRequirement(
            "`store.url` names a PostgreSQL database, but its driver is not installed. "
            "Install with: pip install 'cognitive-twin[postgres]'"
        ) from error
