"""One task's working memory, from its start until it is archived into raw."""

import secrets
import time
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, literal, select

from twin.errors import UsageError
from twin.store.engine import Database
from twin.store.schema import raw_session, raw_session_item, session_item, session_task


class Sessions:
    """Named JSON values per task. A session is changed while it is open, never afterwards."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(self, task: str) -> str:
        """Opens a session for a task; returns its id."""
        session_id = f"session-{secrets.token_hex(8)}"
        with self._database.writing() as connection:
            row = {"session_id": session_id, "task": task, "started_at": time.time()}
            connection.execute(insert(session_task), row)
        return session_id

    def put(self, session_id: str, key: str, value: Any) -> None:
        """Sets a JSON value. Raises UsageError where the session is not open."""
        with self._database.writing() as connection:
            _open_session(connection, session_id, held=True)
            connection.execute(
                self._database.insert_or_replace(session_item, "value", "at"),
                {"session_id": session_id, "key": key, "value": value, "at": time.time()},
            )

    def get(self, session_id: str, key: str) -> Any:
        """The value last put, None where there is none. Raises UsageError if it is not open."""
        with self._database.reading() as connection:
            _open_session(connection, session_id)
            return connection.execute(
                select(session_item.c.value).where(
                    session_item.c.session_id == session_id, session_item.c.key == key
                )
            ).scalar()

    def open_ids(self) -> list[str]:
        """The sessions that were not archived, oldest first; also those of killed processes."""
        query = select(session_task.c.session_id).order_by(session_task.c.started_at)
        with self._database.reading() as connection:
            return list(connection.execute(query).scalars())

    def archive(self, session_id: str) -> None:
        """Moves the session with all its values into raw, in one transaction."""
        task, item = session_task.c, session_item.c
        with self._database.writing() as connection:
            _open_session(connection, session_id, held=True)
            connection.execute(
                insert(raw_session).from_select(
                    ["session_id", "task", "started_at", "archived_at"],
                    select(task.session_id, task.task, task.started_at, literal(time.time())).where(
                        task.session_id == session_id
                    ),
                )
            )
            connection.execute(
                insert(raw_session_item).from_select(
                    ["session_id", "key", "value", "at"],
                    select(item.session_id, item.key, item.value, item.at).where(
                        item.session_id == session_id
                    ),
                )
            )
            connection.execute(delete(session_item).where(item.session_id == session_id))
            connection.execute(delete(session_task).where(task.session_id == session_id))


def _open_session(connection: Connection, session_id: str, *, held: bool = False) -> Row[Any]:
    """Its row. `held` keeps other writers of it out until the transaction ends."""
    query = select(session_task).where(session_task.c.session_id == session_id)
    row = connection.execute(query.with_for_update() if held else query).first()
    if row is None:
        raise UsageError(
            f"There is no open session {session_id!r}: it was archived, or never started. Start a "
            "new one."
        )
    return row
