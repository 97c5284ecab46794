"""One call under way: what is known of it so far, and at the end its record.

Mutable on purpose and never shared: it lives in the task that answers the call.
"""

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from twin.records import (
    Attempt,
    Call,
    CallOutcome,
    ContextItem,
    DialectName,
    RouteDecision,
)

if TYPE_CHECKING:
    from twin.backends.dialects import RequestHead
    from twin.serve.keyring import Holder
    from twin.serve.ledger import Reservation


class Exchange:
    """What the gateway knows of one call. Times are milliseconds since `began`."""

    # What most calls leave as it is stands here, on the class: setting all of it each time cost
    # more than everything else in `__init__`.
    head: "RequestHead | None" = None
    asked_model = ""
    holder: "Holder | None" = None
    session = ""
    task_id = ""
    traceparent = ""
    """The caller's span, for tracing."""
    preference = 0
    """The same number for all calls of a session: keeps them on one account."""
    num_prompt_tokens = 0
    """Estimated before anyone has counted: a quarter of the bytes."""
    forwarded: tuple[tuple[bytes, bytes], ...] = ()
    """Headers of the client that the provider should see."""
    route: RouteDecision | None = None
    context: tuple[ContextItem, ...] = ()
    handoff = b""
    reserved: "Reservation | None" = None
    settled_usd = 0.0
    """What the ledger has been told of this call already."""
    model = ""
    degraded = False
    first_byte_ms: float | None = None
    response: bytes | None = None
    """What the client received, where that is not the last attempt's own answer."""
    is_recorded = False

    def __init__(self, dialect: DialectName, body: bytes, call_id: str = "") -> None:
        self.at = time.time()
        self.call_id = call_id or new_call_id(self.at)
        self.began = time.perf_counter()
        self.dialect: DialectName = dialect
        self.body = body
        """As the client sent it."""
        self.prepared = body
        """With injected context and hand-off, still in the client's dialect."""
        self.meta: dict[str, str] = {}
        self.attempts: list[Attempt] = []

    def ms(self) -> float:
        """Milliseconds since the call began."""
        return (time.perf_counter() - self.began) * 1000.0

    @property
    def key_id(self) -> str:
        return self.holder.key.key_id if self.holder else ""

    @property
    def is_stream(self) -> bool:
        return self.head is not None and self.head.stream

    def call(self, outcome: CallOutcome, status: int, error: str, latency_ms: float) -> Call:
        """The record of it as it stands now."""
        return Call(
            call_id=self.call_id,
            at=self.at,
            dialect=self.dialect,
            outcome=outcome,
            asked_model=self.asked_model,
            model=self.model,
            key_id=self.key_id,
            session=self.session,
            task_id=self.task_id,
            status=status,
            error=error,
            is_stream=self.is_stream,
            is_degraded=self.degraded,
            route=self.route,
            context=self.context,
            handoff=self.handoff,
            first_byte_ms=self.first_byte_ms,
            latency_ms=latency_ms,
            request=self.body,
            response=self.response,
            attempts=tuple(self.attempts),
            meta=self.meta,
        )


_NUM_DIGITS = 20


def _random_digits() -> Iterator[str]:
    """80 bits at a time, of which nobody can tell the next from those before. Fetched many at once:
    a system call for each would cost more than the rest of the number."""
    while True:
        digits = os.urandom(16_000).hex()
        for start in range(0, len(digits), _NUM_DIGITS):
            yield digits[start : start + _NUM_DIGITS]


_next_digits = _random_digits().__next__


def new_call_id(at: float | None = None) -> str:
    """The time in milliseconds, then 80 random bits, as a UUID of version 7 has them: in order of
    time, an index over them is written a tenth faster. Cannot be guessed: who knows it may say
    what he thinks of the call."""
    return f"call_{int((at or time.time()) * 1000):012x}{_next_digits()}"
