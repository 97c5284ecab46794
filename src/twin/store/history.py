"""Mined commits and their changes, per repository, in the order git gave them.

Keeps what `observe.mine` found; judges nothing. Rebuildable from the repository.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from twin.records import Commit, FileChange, Label, MinedCommit
from twin.store.engine import Database
from twin.store.schema import curated_change, curated_commit, curated_history

_AT_ONCE = 2000
"""Commits per statement: large enough to be fast, small enough to stream any history."""

_CHANGE_VALUES = attrgetter(*(column.name for column in list(curated_change.columns)[3:]))
"""A change's values in the order of the table's columns."""


class HistoryTable:
    """The commits of each repository up to a head, oldest first."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def replace(self, repository: str, head: str, commits: Iterable[MinedCommit]) -> int:
        """Puts `commits` in place of what is there, all or nothing; returns how many.

        `commits` may be an iterator; it is consumed while the transaction is open, so it must not
        write to this store itself.
        """
        with self._database.writing(durable=False) as connection:
            self._database.one_at_a_time(connection, f"history {repository}")
            history_id = self._row(connection, repository, head)
            for table in (curated_change, curated_commit):
                connection.execute(delete(table).where(table.c.history_id == history_id))
            return _write(self._database, connection, history_id, 0, commits)

    def append(self, repository: str, head: str, commits: Iterable[MinedCommit]) -> int:
        """Adds `commits` after what is there and moves the head; returns how many were new.

        Commits that are there already are left alone, so an append can be repeated.
        """
        with self._database.writing(durable=False) as connection:
            self._database.one_at_a_time(connection, f"history {repository}")
            history_id = self._row(connection, repository, head)
            ours = curated_commit.c.history_id == history_id
            last = connection.execute(select(func.max(curated_commit.c.position)).where(ours))
            start = last.scalar()
            known = set(
                connection.execute(select(curated_commit.c.commit_id).where(ours)).scalars()
            )
            new = (mined for mined in commits if mined.commit.commit_id not in known)
            return _write(
                self._database, connection, history_id, 0 if start is None else start + 1, new
            )

    def head(self, repository: str) -> str | None:
        """The commit up to which the history is stored, None where none is."""
        query = select(curated_history.c.head).where(curated_history.c.repository == repository)
        with self._database.reading() as connection:
            return connection.execute(query).scalar()

    def commits(self, repository: str) -> list[MinedCommit]:
        """Everything stored of that repository, in topological order, oldest first."""
        with self._database.reading() as connection:
            history_id = connection.execute(
                select(curated_history.c.id).where(curated_history.c.repository == repository)
            ).scalar()
            if history_id is None:
                return []
            return list(_read(connection, history_id))

    def _row(self, connection: Connection, repository: str, head: str) -> int:
        """Sets the head and returns the repository's number, which is made if it is new."""
        values = {"head": head, "at": time.time()}
        ours = curated_history.c.repository == repository
        found: int | None = connection.execute(select(curated_history.c.id).where(ours)).scalar()
        if found is not None:
            connection.execute(update(curated_history).where(ours).values(**values))
            return found
        added = connection.execute(curated_history.insert().values(repository=repository, **values))
        assert added.inserted_primary_key is not None
        return int(added.inserted_primary_key[0])


def _write(
    database: Database,
    connection: Connection,
    history_id: int,
    start: int,
    commits: Iterable[MinedCommit],
) -> int:
    waiting = iter(commits)
    position = start
    while some := list(islice(waiting, _AT_ONCE)):
        numbered = list(enumerate(some, position))
        rows = [_commit_row(history_id, number, mined) for number, mined in numbered]
        database.insert_rows(connection, curated_commit, rows)
        changes = [
            (history_id, number, ordinal, *_CHANGE_VALUES(change))
            for number, mined in numbered
            for ordinal, change in enumerate(mined.commit.changes)
        ]
        if changes:
            database.insert_rows(connection, curated_change, changes)
        position += len(some)
    return position - start


def _commit_row(history_id: int, position: int, mined: MinedCommit) -> tuple[Any, ...]:
    """Values in the order of the table's columns."""
    commit = mined.commit
    return (
        history_id,
        position,
        commit.commit_id,
        " ".join(commit.parent_ids),
        commit.author_name,
        commit.author_email,
        commit.author_time,
        commit.commit_time,
        commit.subject,
        commit.body,
        mined.num_source_files,
        mined.num_test_files,
        mined.num_source_lines,
        mined.message_score,
        [(label.name, label.reason) for label in mined.labels],
        mined.dropped_by,
    )


def _read(connection: Connection, history_id: int) -> Iterator[MinedCommit]:
    changes = _changes(connection, history_id)
    commit = curated_commit.c
    query = select(curated_commit).where(commit.history_id == history_id).order_by(commit.position)
    for row in connection.execute(query):
        (_, position, commit_id, parent_ids, author_name, author_email, author_time, commit_time,
         subject, body, num_source_files, num_test_files, num_source_lines, message_score, labels,
         dropped_by) = row  # fmt: skip
        yield MinedCommit(
            commit=Commit(
                commit_id=commit_id,
                parent_ids=tuple(parent_ids.split()),
                author_name=author_name,
                author_email=author_email,
                author_time=author_time,
                commit_time=commit_time,
                subject=subject,
                body=body,
                changes=tuple(changes.get(position, ())),
            ),
            num_source_files=num_source_files,
            num_test_files=num_test_files,
            num_source_lines=num_source_lines,
            message_score=message_score,
            labels=tuple(Label(name=name, reason=reason) for name, reason in labels),
            dropped_by=dropped_by,
        )


def _changes(connection: Connection, history_id: int) -> dict[int, list[FileChange]]:
    """By the position of their commit."""
    change = curated_change.c
    rows = connection.execute(
        select(curated_change)
        .where(change.history_id == history_id)
        .order_by(change.position, change.ordinal)
    )
    changes: defaultdict[int, list[FileChange]] = defaultdict(list)
    for _, position, _, path, status, old_path, added, deleted, old_blob, new_blob in rows:
        changes[position].append(
            FileChange(
                path=path,
                status=status,
                old_path=old_path,
                added=added,
                deleted=deleted,
                old_blob=old_blob,
                new_blob=new_blob,
            )
        )
    return changes
