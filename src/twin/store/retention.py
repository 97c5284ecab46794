"""Removes old traffic, by age and by size, a few calls at a time.

Age is a promise to people: when it is over everything of a call goes, what was said of it and
learnt from it included. Size is about space: calls that training needs most (those with feedback,
and those that were escalated) go last. Sums of spending stay in either case.
"""

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, delete, exists, func, select

from twin.store import traffic
from twin.store.engine import Database
from twin.store.schema import (
    traffic_attempt,
    traffic_call,
    traffic_context,
    traffic_feedback,
    traffic_payload,
    traffic_preference,
)

_STEP = 200
"""Calls that one transaction removes: the recorder and others come in between."""
_DAY_S = 86_400.0


def apply(
    database: Database, *, max_age_days: float, max_mb: float, max_calls: int = 1_000_000_000
) -> int:
    """Removes calls, the oldest first, until both limits hold or `max_calls` are gone (roughly:
    the last step is finished); gives how many went."""
    call = traffic_call.c
    oldest = time.time() - max_age_days * _DAY_S
    num_removed = 0
    while num_removed < max_calls:
        removed = _remove(database, select(call.number, call.call_id).where(call.at < oldest))
        if not removed:
            _remove_unjoined_feedback(database, oldest)
            return num_removed + _shrink(database, max_mb * 1e6, max_calls - num_removed)
        num_removed += removed
    return num_removed


def _shrink(database: Database, max_bytes: float, max_calls: int) -> int:
    call = traffic_call.c
    with database.reading() as connection:
        total = connection.execute(select(func.sum(call.num_bytes))).scalar() or 0
    excess = int(total) - max_bytes
    is_precious = exists().where(traffic_feedback.c.call_id == call.call_id)
    any_call = select(call.number, call.call_id, call.num_bytes)
    num_removed = 0
    for query in (any_call.where(~call.is_escalated, ~is_precious), any_call):
        while excess > 0 and num_removed < max_calls:
            with database.reading() as connection:
                rows = connection.execute(query.order_by(call.at, call.number).limit(_STEP)).all()
            chosen = []
            for row in rows:
                if excess <= 0:
                    break
                chosen.append(row.number)
                excess -= row.num_bytes
            if not chosen:
                break
            wanted = select(call.number, call.call_id).where(call.number.in_(chosen))
            num_removed += _remove(database, wanted)
    return num_removed


def _remove(database: Database, query: "Select[Any]") -> int:
    """Removes the oldest few of the calls that a query finds, with all that belongs to them."""
    call = traffic_call.c
    with database.writing() as connection:
        database.one_at_a_time(connection, traffic.LOCK)
        rows = connection.execute(query.order_by(call.at, call.number).limit(_STEP)).all()
        if not rows:
            return 0
        numbers: Sequence[int] = [row.number for row in rows]
        for column in (
            traffic_payload.c.call_number,
            traffic_attempt.c.call_number,
            traffic_context.c.call_number,
            traffic_preference.c.call_number,
            call.number,
        ):
            connection.execute(delete(column.table).where(column.in_(numbers)))
        said = traffic_feedback.c.call_id
        ids = [row.call_id for row in rows]
        connection.execute(delete(traffic_feedback).where(said.in_(ids)))
    return len(rows)


def _remove_unjoined_feedback(database: Database, oldest: float) -> None:
    """Feedback on calls that never came."""
    said = traffic_feedback.c
    known = exists().where(traffic_call.c.call_id == said.call_id)
    with database.writing() as connection:
        connection.execute(delete(traffic_feedback).where(said.at < oldest, ~known))
