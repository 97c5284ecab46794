"""Writes calls and feedback into the tables of traffic, each exactly once, in one transaction.

Owns how a call becomes rows, what is summed up as spending, and which pairs of answers say what is
better. `ingest` brings the entries, `calls` reads them back, `retention` removes them.
"""

import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Connection, func, or_, select

from twin.records import LOCAL, Attempt, Call, Entry, Feedback
from twin.store.engine import Database
from twin.store.schema import (
    traffic_attempt,
    traffic_call,
    traffic_context,
    traffic_feedback,
    traffic_payload,
    traffic_preference,
    traffic_spend,
)

LOCK = "traffic"
PLAIN = "plain"
_ROW_BYTES = 600
"""What a call's rows take apart from bodies, with their indices; measured at 100,000 calls."""
_MAX_IN = 500
_DAY_S = 86_400

Row = tuple[Any, ...]
EntryT = TypeVar("EntryT", Call, Feedback)

_encode_json = msgspec.json.Encoder().encode


@dataclass(slots=True, kw_only=True)
class Written:
    """How many entries were new."""

    num_calls: int = 0
    num_feedback: int = 0
    num_duplicates: int = 0


@dataclass(slots=True)
class _Rows:
    calls: list[Row] = field(default_factory=list)
    attempts: list[Row] = field(default_factory=list)
    payloads: list[Row] = field(default_factory=list)
    contexts: list[Row] = field(default_factory=list)
    preferences: list[dict[str, Any]] = field(default_factory=list)
    spend: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)


def write(database: Database, connection: Connection, entries: Iterable[Entry]) -> Written:
    """Inserts what is not there yet. The caller's transaction must be a writing one."""
    database.one_at_a_time(connection, LOCK)
    calls: dict[str, Call] = {}
    feedback: dict[str, Feedback] = {}
    num_entries = 0
    for entry in entries:
        num_entries += 1
        if isinstance(entry, Call):
            calls[entry.call_id] = entry
        else:
            feedback[entry.feedback_id] = entry
    new_calls = _without_known(connection, traffic_call.c.call_id, calls)
    new_feedback = _without_known(connection, traffic_feedback.c.feedback_id, feedback)
    _write_calls(database, connection, new_calls)
    _write_feedback(connection, new_feedback)
    _write_demonstrated(database, connection, new_calls, new_feedback)
    num_new = len(new_calls) + len(new_feedback)
    return Written(
        num_calls=len(new_calls),
        num_feedback=len(new_feedback),
        num_duplicates=num_entries - num_new,
    )


def _without_known(
    connection: Connection, column: Any, entries: dict[str, EntryT]
) -> dict[str, EntryT]:
    here = known(connection, column, entries)
    return {name: entry for name, entry in entries.items() if name not in here}


def known(connection: Connection, column: Any, ids: Iterable[str]) -> set[str]:
    """Those values that the column holds."""
    found: set[str] = set()
    for chunk in _chunks(ids):
        found.update(connection.execute(select(column).where(column.in_(chunk))).scalars())
    return found


def _chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(ids)
    while chunk := list(islice(remaining, _MAX_IN)):
        yield chunk


def _write_calls(database: Database, connection: Connection, calls: dict[str, Call]) -> None:
    if not calls:
        return
    newest = connection.execute(select(func.max(traffic_call.c.number))).scalar() or 0
    rows = _Rows()
    for number, call in enumerate(calls.values(), newest + 1):
        _add_call(rows, number, call)
    for table, its_rows in (
        (traffic_call, rows.calls),
        (traffic_attempt, rows.attempts),
        (traffic_payload, rows.payloads),
        (traffic_context, rows.contexts),
    ):
        if its_rows:
            database.insert_rows(connection, table, its_rows)
    if rows.preferences:
        connection.execute(traffic_preference.insert(), rows.preferences)
    if rows.spend:
        sums = ("num_calls", "num_prompt_tokens", "num_completion_tokens", "cost_usd")
        connection.execute(
            database.insert_or_add(traffic_spend, *sums),
            [
                {
                    "month": month,
                    "key_id": key,
                    "model": model,
                    **dict(zip(sums, used, strict=True)),
                }
                for (month, key, model), used in sorted(rows.spend.items())
            ],
        )


def _add_call(rows: _Rows, number: int, call: Call) -> None:
    num_bytes = _ROW_BYTES + _add_payload(rows, number, 0, "request", call.request)
    if call.response is not None:
        num_bytes += _add_payload(rows, number, 0, "response", call.response)
    if call.handoff:
        num_bytes += _add_payload(rows, number, 0, "handoff", call.handoff)
    num_prompt = num_completion = 0
    cost_usd = 0.0
    is_escalated = False
    for ordinal, attempt in enumerate(call.attempts, 1):
        num_bytes += _add_attempt(rows, number, ordinal, attempt)
        if attempt.usage is not None:
            num_prompt += attempt.usage.num_prompt_tokens
            num_completion += attempt.usage.num_completion_tokens
        cost_usd += attempt.cost_usd
        is_escalated |= attempt.outcome == "escalated"
    rows.calls.append(
        (
            number,
            call.call_id,
            call.at,
            call.dialect,
            call.outcome,
            call.asked_model,
            call.model,
            call.key_id,
            call.session,
            call.task_id,
            call.status,
            call.error,
            call.is_stream,
            call.is_degraded,
            is_escalated,
            call.first_byte_ms,
            call.latency_ms,
            num_prompt,
            num_completion,
            cost_usd,
            None if call.route is None else _encode_json(call.route).decode(),
            _encode_json(call.meta).decode() if call.meta else "{}",
            num_bytes,
        )
    )
    for ordinal, item in enumerate(call.context, 1):
        row = (number, ordinal, item.source, item.name, item.relevance, item.num_tokens)
        rows.contexts.append(row)
    if is_escalated:
        _add_preferences(rows, number, call)
    _add_spend(rows, call)


def _add_payload(rows: _Rows, number: int, ordinal: int, part: str, body: bytes) -> int:
    rows.payloads.append((number, ordinal, part, PLAIN, body))
    return len(body)


def _add_attempt(rows: _Rows, number: int, ordinal: int, attempt: Attempt) -> int:
    usage = attempt.usage
    rows.attempts.append(
        (
            number,
            ordinal,
            attempt.model,
            attempt.outcome,
            attempt.account,
            attempt.upstream_model,
            attempt.dialect,
            attempt.status,
            attempt.reason,
            attempt.confidence,
            attempt.started_ms,
            attempt.first_byte_ms,
            attempt.latency_ms,
            attempt.is_streamed,
            struct.pack(f"<{len(attempt.chunk_ms)}d", *attempt.chunk_ms),
            None if usage is None else usage.num_prompt_tokens,
            None if usage is None else usage.num_completion_tokens,
            None if usage is None else usage.num_cached_tokens,
            None if usage is None else usage.is_estimated,
            attempt.cost_usd,
        )
    )
    num_bytes = 8 * len(attempt.chunk_ms)
    if attempt.request is not None:
        num_bytes += _add_payload(rows, number, ordinal, "request", attempt.request)
    if attempt.response:
        num_bytes += _add_payload(rows, number, ordinal, "response", attempt.response)
    return num_bytes


def _add_preferences(rows: _Rows, number: int, call: Call) -> None:
    """Each answer that was not good enough, against the one that went out after it."""
    good = [n for n, attempt in enumerate(call.attempts, 1) if attempt.outcome == "ok"]
    for ordinal, attempt in enumerate(call.attempts, 1):
        chosen = next((n for n in good if n > ordinal), None)
        if attempt.outcome == "escalated" and chosen is not None:
            rows.preferences.append(
                {
                    "call_number": number,
                    "rejected": ordinal,
                    "chosen": chosen,
                    "feedback_id": "",
                    "reason": attempt.reason,
                    "at": call.at,
                }
            )


def _add_spend(rows: _Rows, call: Call) -> None:
    month = month_of(call.at)
    counted: list[str] = []
    for attempt in call.attempts:
        used = rows.spend.setdefault((month, call.key_id, attempt.model), [0, 0, 0, 0.0])
        if attempt.model not in counted:  # However often it was tried, it was one call.
            counted.append(attempt.model)
            used[0] += 1
        if attempt.usage is not None:
            used[1] += attempt.usage.num_prompt_tokens
            used[2] += attempt.usage.num_completion_tokens
        used[3] += attempt.cost_usd


def month_of(at: float) -> str:
    """`2026-11`, in UTC."""
    return _month_of_day(int(at // _DAY_S))


@lru_cache(maxsize=100)
def _month_of_day(day: int) -> str:
    moment = time.gmtime(day * _DAY_S)
    return f"{moment.tm_year:04d}-{moment.tm_mon:02d}"


def _write_feedback(connection: Connection, feedback: dict[str, Feedback]) -> None:
    if feedback:
        rows = [msgspec.structs.asdict(each) for each in feedback.values()]
        connection.execute(traffic_feedback.insert(), rows)


def _write_demonstrated(
    database: Database,
    connection: Connection,
    calls: dict[str, Call],
    feedback: dict[str, Feedback],
) -> None:
    """A demonstration is better than what the call answered; whichever of both comes second makes
    the pair. One that comes with another key than the call's makes none: its holder would teach
    the models what to answer others."""
    said, call, attempt = traffic_feedback.c, traffic_call.c, traffic_attempt.c
    answer = (
        select(func.max(attempt.ordinal))
        .where(attempt.call_number == call.number, attempt.outcome == "ok")
        .scalar_subquery()
    )
    pairs = (
        select(call.number, answer.label("ordinal"), said.feedback_id, said.comment, said.at)
        .join(traffic_call, call.call_id == said.call_id)
        .where(said.demonstration != "", may_speak())
    )
    found: dict[tuple[int, str], Any] = {}
    for column, ids in (
        (said.feedback_id, [name for name, each in feedback.items() if each.demonstration]),
        (said.call_id, list(calls) if _has_demonstrations(connection) else []),
    ):
        for chunk in _chunks(ids):
            for row in connection.execute(pairs.where(column.in_(chunk))):
                found[row.number, row.feedback_id] = row
    rows = [
        {
            "call_number": row.number,
            "rejected": row.ordinal,
            "chosen": None,
            "feedback_id": row.feedback_id,
            "reason": row.comment,
            "at": row.at,
        }
        for row in found.values()
        if row.ordinal is not None
    ]
    if rows:
        connection.execute(database.insert_new(traffic_preference), rows)


def may_speak() -> ColumnElement[bool]:
    """Whether feedback is by whoever made its call, or by the owner of the store."""
    said = traffic_feedback.c.key_id
    return or_(said == traffic_call.c.key_id, said == LOCAL)


def _has_demonstrations(connection: Connection) -> bool:
    wanted = select(traffic_feedback.c.id).where(traffic_feedback.c.demonstration != "").limit(1)
    return connection.execute(wanted).first() is not None
