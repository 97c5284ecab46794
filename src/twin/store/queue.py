"""Work that several processes share, on one machine or on several: who does what, and until when.

A campaign puts its items into a queue of its own; an item is known by the question it answers, so
that two campaigns that ask the same share it, and it is done once. Whoever takes one holds a lease:
a process that can be seen from here holds it as long as it lives, any other as long as it renews
it, by the database's clock, since those of several machines differ and leap. Knows nothing of what
the work is; an item that is finished is gone, and its answer is elsewhere in the store.
"""

import itertools
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)

from twin.store.engine import Database
from twin.store.owners import described, is_gone
from twin.store.schema import work_item, work_wish

LEASE_S: Final = 60.0
"""How long a machine that cannot be reached keeps an item. Longer than a database restarts; the
work itself takes seconds."""
RENEW_S: Final = 15.0
_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Leased:
    """An item that the process which took it holds."""

    key: str
    told: Any
    """What whoever put it said of it, as JSON."""
    num_tries: int
    """This one included."""
    reason: str
    """Why the last one failed; empty for the first."""


class WorkQueue:
    """Queues by name; their items by key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, queue: str, items: Iterable[tuple[str, Any]]) -> int:
        """Adds keys and what is told of them, to be taken in this order; how many there were.

        What is known of a key from before, how often it was tried above all, stays. `queue` begins
        with the name of the process that waits for it (`owners.this_process`).
        """
        self._forget_abandoned()
        fresh = {"owner": "", "queue": "", "expires_at": 0.0, "num_tries": 0, "reason": ""}
        given, count = iter(items), 0
        while part := list(itertools.islice(given, _AT_ONCE)):
            # Sorted: others may add the same ones in another order, and would wait for us for ever.
            rows = [{"key": key, "told": told, **fresh} for key, told in sorted(part, key=_key)]
            wishes = [
                {"queue": queue, "position": position, "key": key}
                for position, (key, _) in enumerate(part, start=count)
            ]
            with self._writing() as connection:
                connection.execute(self._database.insert_new(work_item), rows)
                connection.execute(insert(work_wish), wishes)
            count += len(part)
        return count

    def take(self, queue: str, owner: str) -> Leased | None:
        """The first item of a queue that nobody holds, from now on held by `owner`."""
        item = work_item.c
        query = (
            select(item.key, item.told, item.num_tries, item.reason)
            .join(work_wish, work_wish.c.key == item.key)
            .where(work_wish.c.queue == queue, item.owner == "")
            .order_by(work_wish.c.position)
            .limit(1)
            # Left out by SQLite, where a writing transaction is alone.
            .with_for_update(of=work_item, skip_locked=True)
        )
        with self._writing() as connection:
            row = connection.execute(query).first()
            if row is None:
                return None
            connection.execute(
                update(work_item)
                .where(item.key == row.key)
                .values(
                    owner=owner,
                    queue=queue,
                    expires_at=self._now() + LEASE_S,
                    num_tries=row.num_tries + 1,
                )
            )
        return Leased(key=row.key, told=row.told, num_tries=row.num_tries + 1, reason=row.reason)

    def renew(self, owner: str) -> None:
        """Puts off the end of every lease of a process."""
        with self._writing() as connection:
            connection.execute(
                update(work_item)
                .where(work_item.c.owner == owner)
                .values(expires_at=self._now() + LEASE_S)
            )

    def finish(self, key: str) -> None:
        """Takes an item away, from every queue: its answer is kept."""
        with self._writing() as connection:
            connection.execute(delete(work_item).where(work_item.c.key == key))
            connection.execute(delete(work_wish).where(work_wish.c.key == key))

    def give_back(self, key: str, owner: str, reason: str, *, counts: bool = True) -> None:
        """Ends a lease after a try that failed; `counts` unless it was not the item's fault."""
        which = (work_item.c.key == key) & (work_item.c.owner == owner)
        self._release(which, reason, 0 if counts else 1)

    def free_lost(self, queue: str) -> int:
        """Ends the leases of processes that are gone, or out of sight and silent for too long, on
        what a queue waits for; how many there were."""
        item = work_item.c
        query = (
            select(item.key, item.owner, item.expires_at, self._now().label("now"))
            .join(work_wish, work_wish.c.key == item.key)
            .where(work_wish.c.queue == queue, item.owner != "")
        )
        with self._database.reading() as connection:
            held = connection.execute(query).all()
        num_freed = 0
        for row in held:
            gone = is_gone(row.owner)
            if gone or (gone is None and row.expires_at < row.now):
                fate = "was killed" if gone else "was not heard of again"
                num_freed += self._release(
                    (item.key == row.key)
                    & (item.owner == row.owner)
                    & (item.expires_at == row.expires_at),
                    f"its worker, {described(row.owner)}, {fate}",
                )
        return num_freed

    def num_left(self, queue: str) -> int:
        """How much of what was put into a queue is not finished."""
        query = (
            select(func.count())
            .select_from(work_wish)
            .join(work_item, work_wish.c.key == work_item.c.key)
            .where(work_wish.c.queue == queue)
        )
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def close(self, queue: str) -> None:
        """Ends a queue, finished or not. What its workers held was interrupted and not at fault:
        that try does not count. To be called when they have ended."""
        with self._writing() as connection:
            connection.execute(
                update(work_item)
                .where(work_item.c.queue == queue, work_item.c.owner != "")
                .values(owner="", num_tries=work_item.c.num_tries - 1)
            )
            connection.execute(delete(work_wish).where(work_wish.c.queue == queue))

    def _release(self, which: ColumnElement[bool], reason: str, num_pardoned: int = 0) -> int:
        num_tries = work_item.c.num_tries - num_pardoned
        with self._writing() as connection:
            done = connection.execute(
                update(work_item).where(which).values(owner="", reason=reason, num_tries=num_tries)
            )
            return done.rowcount

    def _forget_abandoned(self) -> None:
        """Removes the queues of processes that are gone; what is known of their items stays."""
        with self._database.reading() as connection:
            queues = connection.execute(select(work_wish.c.queue).distinct()).scalars().all()
        for queue in queues:
            if is_gone(queue.rpartition("/")[0]):
                with self._writing() as connection:
                    connection.execute(delete(work_wish).where(work_wish.c.queue == queue))

    def _writing(self) -> AbstractContextManager[Connection]:
        # What a power cut takes is done again, and the answers themselves are durable.
        return self._database.writing(durable=False)

    def _now(self) -> ColumnElement[float]:
        if self._database.is_sqlite:
            return literal_column("((julianday('now') - 2440587.5) * 86400.0)")
        return literal_column("extract(epoch FROM clock_timestamp())::double precision")


def _key(item: tuple[str, Any]) -> str:
    return item[0]
