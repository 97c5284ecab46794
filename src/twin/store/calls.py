"""The log of calls: what passed the gateway, found again and put together as it was recorded.

Reads the tables of traffic. Writing goes through `traffic`, which holds the rules of it; in
production only `ingest` writes, from the journal.
"""

import struct
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, exists, or_, select

from twin.errors import UnknownCall
from twin.records import (
    Attempt,
    Call,
    CallSummary,
    ContextItem,
    Entry,
    Feedback,
    Preference,
    RouteDecision,
    Spend,
    Usage,
)
from twin.store import retention, traffic
from twin.store.engine import Database
from twin.store.readable import Matcher
from twin.store.schema import (
    traffic_attempt,
    traffic_call,
    traffic_context,
    traffic_feedback,
    traffic_payload,
    traffic_preference,
    traffic_spend,
)

_PAGE = 200
"""Calls whose bodies are in memory at once."""

_decode_route = msgspec.json.Decoder(RouteDecision).decode
_decode_meta = msgspec.json.Decoder(dict[str, str]).decode
_AnyRow = Row[Any]


class CallLog:
    """Recorded calls with their attempts, feedback, preferences and sums."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, calls: Iterable[Call]) -> int:
        """Inserts calls that are not there yet; gives how many."""
        return self.write(list(calls)).num_calls

    def add_feedback(self, feedback: Iterable[Feedback]) -> int:
        """Inserts feedback that is not there yet; gives how much. Its call need not be known."""
        return self.write(list(feedback)).num_feedback

    def write(self, entries: Sequence[Entry]) -> traffic.Written:
        """Inserts calls and feedback, in one transaction; what is there already is left alone."""
        with self._database.writing() as connection:
            return traffic.write(self._database, connection, entries)

    def get(self, call_id: str) -> Call:
        """The call as it was recorded. Raises UnknownCall."""
        with self._database.reading() as connection:
            query = select(traffic_call).where(traffic_call.c.call_id == call_id)
            rows = connection.execute(query).all()
            if not rows:
                raise UnknownCall(
                    f"There is no call {call_id!r}. `twin calls` lists what was recorded; older "
                    "calls may have been removed (`record.max_age_days`)."
                )
            return _whole(connection, rows)[0]

    def each(self, *, since: float | None = None, until: float | None = None) -> Iterator[Call]:
        """Every call whole, in the order in which they came, a page in memory at a time."""
        last = 0
        while True:
            query = select(traffic_call).where(traffic_call.c.number > last)
            query = _between(query, since, until).order_by(traffic_call.c.number).limit(_PAGE)
            with self._database.reading() as connection:
                rows = connection.execute(query).all()
                calls = _whole(connection, rows)
            yield from calls
            if len(rows) < _PAGE:
                return
            last = rows[-1].number

    def search(
        self,
        text: str = "",
        *,
        model: str | None = None,
        outcome: str | None = None,
        session: str | None = None,
        task_id: str | None = None,
        key_id: str | None = None,
        since: float | None = None,
        until: float | None = None,
        escalated: bool | None = None,
        feedback: bool | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[CallSummary]:
        """The newest first; `text` is looked for in what was asked and answered.

        `model` is the one that was asked for or that answered. `before`, a call's id, goes on where
        an earlier list ended; raises UnknownCall where that call is gone.
        """
        call = traffic_call.c
        query = _between(select(traffic_call), since, until)
        if model is not None:
            query = query.where(or_(call.model == model, call.asked_model == model))
        for column, wanted in (
            (call.outcome, outcome),
            (call.session, session),
            (call.task_id, task_id),
            (call.key_id, key_id),
            (call.is_escalated, escalated),
        ):
            if wanted is not None:
                query = query.where(column == wanted)
        if feedback is not None:
            said = exists().where(traffic_feedback.c.call_id == call.call_id)
            query = query.where(said if feedback else ~said)
        with self._database.reading() as connection:
            place = None if before is None else _place(connection, before)
            found = _found(connection, query, text, place, limit)
        return [_summary(row) for row in found]

    def known(self, call_ids: Iterable[str]) -> set[str]:
        """Those of them that are here."""
        with self._database.reading() as connection:
            return traffic.known(connection, traffic_call.c.call_id, call_ids)

    def feedback(self, call_id: str) -> list[Feedback]:
        """What was said of a call by those who may, the oldest first; all of it where the call is
        not known (yet)."""
        said, call = traffic_feedback.c, traffic_call.c
        query = (
            select(traffic_feedback)
            .outerjoin(traffic_call, call.call_id == said.call_id)
            .where(said.call_id == call_id, or_(call.call_id.is_(None), traffic.may_speak()))
            .order_by(said.at, said.id)
        )
        with self._database.reading() as connection:
            return [_feedback(row) for row in connection.execute(query)]

    def preferences(self, limit: int | None = None) -> list[Preference]:
        """Pairs of answers of which one is better, the newest first."""
        pair = traffic_preference.c
        query = (
            select(*traffic_preference.columns, traffic_call.c.call_id)
            .join(traffic_call, traffic_call.c.number == pair.call_number)
            .order_by(pair.id.desc())
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [
                Preference(
                    call_id=row.call_id,
                    reason=row.reason,
                    at=row.at,
                    rejected=row.rejected,
                    chosen=row.chosen,
                    feedback_id=row.feedback_id,
                )
                for row in connection.execute(query)
            ]

    def spend(self, month: str | None = None) -> list[Spend]:
        """What was used in a month such as `2026-11` (UTC; None is the present one), by key and
        model. Counts calls that retention has removed, too."""
        used = traffic_spend.c
        wanted = traffic.month_of(time.time()) if month is None else month
        query = select(traffic_spend).where(used.month == wanted).order_by(used.key_id, used.model)
        with self._database.reading() as connection:
            return [Spend(**row) for row in connection.execute(query).mappings()]

    def retention(
        self, *, max_age_days: float, max_mb: float, max_calls: int = 1_000_000_000
    ) -> int:
        """Removes the oldest calls beyond either limit, at most about `max_calls` of them; gives
        how many."""
        return retention.apply(
            self._database, max_age_days=max_age_days, max_mb=max_mb, max_calls=max_calls
        )


def _between(query: "Select[Any]", since: float | None, until: float | None) -> "Select[Any]":
    if since is not None:
        query = query.where(traffic_call.c.at >= since)
    if until is not None:
        query = query.where(traffic_call.c.at < until)
    return query


def _place(connection: Connection, call_id: str) -> tuple[float, int]:
    call = traffic_call.c
    row = connection.execute(select(call.at, call.number).where(call.call_id == call_id)).first()
    if row is None:
        raise UnknownCall(f"There is no call {call_id!r} to go on from. Begin at the newest again.")
    return row.at, row.number


def _found(
    connection: Connection,
    query: "Select[Any]",
    text: str,
    place: tuple[float, int] | None,
    limit: int,
) -> list[_AnyRow]:
    """Pages through the calls that the filters let pass, and looks for the text in each."""
    call = traffic_call.c
    matcher = Matcher(text) if text else None
    size = limit if matcher is None else _PAGE
    query = query.order_by(call.at.desc(), call.number.desc()).limit(size)
    found: list[_AnyRow] = []
    while len(found) < limit:
        page = query
        if place is not None:
            at, number = place
            # In two parts, as an index answers `<=`; one OR of both would read from the top.
            page = query.where(call.at <= at, or_(call.at < at, call.number < number))
        if matcher is not None:
            page = page.with_only_columns(call.number, call.at)
        rows = connection.execute(page).all()
        matching = rows if matcher is None else _matching(connection, rows, matcher)
        found += matching[: limit - len(found)]
        if len(rows) < size:
            break
        place = rows[-1].at, rows[-1].number
    return found


def _matching(
    connection: Connection, rows: Sequence[_AnyRow], matcher: Matcher
) -> Sequence[_AnyRow]:
    payload = traffic_payload.c
    numbers = [row.number for row in rows]
    wanted = select(payload.call_number, payload.body).where(payload.call_number.in_(numbers))
    hits: set[int] = set()
    for number, body in connection.execute(wanted):
        if number not in hits and matcher.matches(body):
            hits.add(number)
    call = traffic_call.c
    whole = select(traffic_call).where(call.number.in_(hits))
    newest_first = whole.order_by(call.at.desc(), call.number.desc())
    return connection.execute(newest_first).all() if hits else []


def _whole(connection: Connection, rows: Sequence[_AnyRow]) -> list[Call]:
    """The calls with everything that belongs to them."""
    numbers = [row.number for row in rows]
    parts: dict[int, dict[tuple[int, str], bytes]] = defaultdict(dict)
    payload = traffic_payload.c
    for row in connection.execute(select(traffic_payload).where(payload.call_number.in_(numbers))):
        parts[row.call_number][row.ordinal, row.part] = row.body
    attempts: dict[int, list[Attempt]] = defaultdict(list)
    attempt = traffic_attempt.c
    for row in connection.execute(
        select(traffic_attempt)
        .where(attempt.call_number.in_(numbers))
        .order_by(attempt.call_number, attempt.ordinal)
    ):
        attempts[row.call_number].append(_attempt(row, parts[row.call_number]))
    contexts: dict[int, list[ContextItem]] = defaultdict(list)
    item = traffic_context.c
    for row in connection.execute(
        select(traffic_context)
        .where(item.call_number.in_(numbers))
        .order_by(item.call_number, item.ordinal)
    ):
        contexts[row.call_number].append(
            ContextItem(
                source=row.source,
                name=row.name,
                relevance=row.relevance,
                num_tokens=row.num_tokens,
            )
        )
    return [
        _call(row, parts[row.number], attempts[row.number], contexts[row.number]) for row in rows
    ]


def _call(
    row: _AnyRow,
    parts: dict[tuple[int, str], bytes],
    attempts: Sequence[Attempt],
    context: Sequence[ContextItem],
) -> Call:
    return Call(
        call_id=row.call_id,
        at=row.at,
        dialect=row.dialect,
        outcome=row.outcome,
        asked_model=row.asked_model,
        model=row.model,
        key_id=row.key_id,
        session=row.session,
        task_id=row.task_id,
        status=row.status,
        error=row.error,
        is_stream=row.is_stream,
        is_degraded=row.is_degraded,
        route=None if row.route is None else _decode_route(row.route),
        context=tuple(context),
        handoff=parts.get((0, "handoff"), b""),
        first_byte_ms=row.first_byte_ms,
        latency_ms=row.latency_ms,
        request=parts.get((0, "request"), b""),
        response=parts.get((0, "response")),
        attempts=tuple(attempts),
        meta=_decode_meta(row.meta),
    )


def _attempt(row: _AnyRow, parts: dict[tuple[int, str], bytes]) -> Attempt:
    return Attempt(
        model=row.model,
        outcome=row.outcome,
        account=row.account,
        upstream_model=row.upstream_model,
        dialect=row.dialect,
        status=row.status,
        reason=row.reason,
        confidence=row.confidence,
        started_ms=row.started_ms,
        first_byte_ms=row.first_byte_ms,
        latency_ms=row.latency_ms,
        request=parts.get((row.ordinal, "request")),
        response=parts.get((row.ordinal, "response"), b""),
        is_streamed=row.is_streamed,
        chunk_ms=struct.unpack(f"<{len(row.chunk_ms) // 8}d", row.chunk_ms),
        usage=None
        if row.num_prompt_tokens is None
        else Usage(
            num_prompt_tokens=row.num_prompt_tokens,
            num_completion_tokens=row.num_completion_tokens,
            num_cached_tokens=row.num_cached_tokens,
            is_estimated=row.is_estimated,
        ),
        cost_usd=row.cost_usd,
    )


def _summary(row: _AnyRow) -> CallSummary:
    values = row._mapping
    return CallSummary(**{name: values[name] for name in CallSummary.__struct_fields__})


def _feedback(row: _AnyRow) -> Feedback:
    values = row._mapping
    return Feedback(**{name: values[name] for name in Feedback.__struct_fields__})
