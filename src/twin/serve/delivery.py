"""Gives answers to the client and calls to the record, in that promise's order: the record is
written before the last byte goes out.

One method for each way in which a call can end. Which model answered, and whether that is good
enough, was `gateway`'s decision.
"""

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from twin.backends.dialects import error_body, error_event, stream_from_whole
from twin.errors import BackendError
from twin.records import AttemptOutcome, CallOutcome, Judgement
from twin.serve import judge
from twin.serve.asking import Opened
from twin.serve.client import Client, HangUp, Headers
from twin.serve.exchange import Exchange
from twin.serve.ledger import cost_usd
from twin.serve.metrics import Metrics
from twin.serve.refusal import Refusal
from twin.serve.relay import Stream, headers_for, payload_of, succeed, usage_for
from twin.serve.scribe import Scribe

log = structlog.get_logger("twin.serve")


class Delivery:
    """The way out of every call."""

    def __init__(self, scribe: Scribe, metrics: Metrics) -> None:
        self.scribe = scribe
        self.metrics = metrics
        self.observers: list[Callable[[Exchange, CallOutcome, int], None]] = []
        """Told of each call that is over: tracing, logs."""

    async def whole(self, exchange: Exchange, opened: Opened, client: Client) -> None:
        payload = payload_of(exchange, opened)
        if payload is not opened.first:
            exchange.response = payload
        exchange.first_byte_ms = exchange.ms()
        succeed(opened, opened.first, False)
        await self._record(exchange, "ok", 200)
        await client.respond(200, headers_for(exchange, opened), payload)

    async def judged(
        self, exchange: Exchange, opened: Opened, judgement: Judgement, client: Client
    ) -> None:
        succeed(opened, opened.first, False, judgement.confidence)
        await self._kept(exchange, opened, client)

    async def weak(
        self, exchange: Exchange, weak: tuple[Opened, Judgement], client: Client
    ) -> None:
        """Nobody bigger could be asked: the small one's answer is better than none, and marked."""
        exchange.model = weak[0].member.name
        exchange.degraded = True
        exchange.handoff = b""
        await self._kept(exchange, weak[0], client)

    async def _kept(self, exchange: Exchange, opened: Opened, client: Client) -> None:
        """An answer that is there as a whole, as the stream or body that the client asked for."""
        payload = judge.without_extras(exchange, opened, payload_of(exchange, opened))
        exchange.first_byte_ms = exchange.ms()
        if exchange.is_stream:
            assert exchange.head is not None
            payload = stream_from_whole(
                exchange.dialect, payload, include_usage=exchange.head.include_usage
            )
        exchange.response = payload
        await self._record(exchange, "ok", 200)
        headers = headers_for(exchange, opened)
        if exchange.is_stream:
            await client.start_stream(headers)
            await client.piece(payload)
            await client.end_stream()
        else:
            await client.respond(200, headers, payload)

    async def stream(self, exchange: Exchange, opened: Opened, client: Client) -> None:
        stream = Stream(exchange, opened, client)
        exchange.first_byte_ms = exchange.ms()

        async def finish(stream: Stream) -> None:
            exchange.response = stream.sent
            succeed(opened, b"".join(opened.received), True)
            await self._record(exchange, "ok", 200)

        await client.start_stream(headers_for(exchange, opened))
        try:
            await stream.pass_on(finish)
        except (asyncio.CancelledError, HangUp):
            if not exchange.is_recorded:
                exchange.response = stream.sent
                self._add_partial(opened, "cancelled", "")
            raise
        except Exception as error:
            if not isinstance(error, BackendError | Refusal):
                log.exception("stream_failed", call_id=exchange.call_id)
            if not exchange.is_recorded:
                await self._broke(exchange, opened, stream, str(error), client)
                return
        await client.end_stream()

    def _add_partial(self, opened: Opened, outcome: AttemptOutcome, reason: str) -> None:
        """An answer that broke off: what came of it was made, and is paid for."""
        usage = usage_for(opened, b"".join(opened.received), True)
        cost = cost_usd(opened.member.config, usage)
        opened.exchange.attempts.append(
            opened.attempt(outcome, reason=reason, usage=usage, cost_usd=cost)
        )

    async def _broke(
        self, exchange: Exchange, opened: Opened, stream: Stream, why: str, client: Client
    ) -> None:
        """The stream broke after its first byte: no other model may go on, so the client is told
        in its own dialect."""
        event = error_event(exchange.dialect, why, "upstream_failed", exchange.call_id)
        exchange.response = None if stream.sent is None else stream.sent + event
        opened.member.breaker.failed()
        self._add_partial(opened, "failed", why)
        try:
            await self._record(exchange, "failed", 200, why)
        except Refusal:
            self._over(exchange, "failed", 200)
        await client.piece(event)
        await client.end_stream()

    async def error(self, exchange: Exchange, opened: Opened, client: Client) -> None:
        """The provider refused the request itself: the client hears it in the provider's words."""
        exchange.model = opened.member.name
        body = opened.first
        if opened.dialect != exchange.dialect or not _is_object(body):
            words = body.decode("utf-8", "replace")[:2_000]
            body = error_body(
                exchange.dialect, opened.status, _message_in(words), "", exchange.call_id
            )
            exchange.response = body
        reason = f"refused with {opened.status}"
        exchange.attempts.append(opened.attempt("failed", reason=reason))
        await self._record(exchange, "refused", opened.status, reason)
        await client.respond(opened.status, headers_for(exchange, opened), body)

    async def refuse(self, exchange: Exchange, refusal: Refusal, client: Client) -> None:
        """The gateway's own no. Strangers without a key leave no record: they could fill the disk
        with it."""
        outcome: CallOutcome = "failed" if exchange.attempts else "refused"
        body = error_body(
            exchange.dialect, refusal.status, refusal.message, refusal.code, exchange.call_id
        )
        if exchange.is_recorded:
            pass  # written, but the disk did not confirm it
        elif refusal.status == 401 or refusal.code in ("overloaded", "recording_failed"):
            self._over(exchange, outcome, refusal.status)
        else:
            exchange.response = body
            try:
                await self._record(exchange, outcome, refusal.status, refusal.message)
            except Refusal:
                self._over(exchange, outcome, refusal.status)
        if client.has_begun:
            return
        headers: Headers = [*headers_for(exchange, None), *refusal.headers()]
        await client.respond(refusal.status, headers, body)

    def cancelled(self, exchange: Exchange, why: str = "") -> None:
        """The client hung up: what came so far is recorded. Never waits: the task is ending."""
        if exchange.is_recorded:
            return
        outcome: CallOutcome = "failed" if why else "cancelled"
        try:
            self._write(exchange, outcome, 499, why or "The client hung up.")
        except Refusal:
            self._over(exchange, outcome, 499)

    async def _record(
        self, exchange: Exchange, outcome: CallOutcome, status: int, error: str = ""
    ) -> None:
        """Writes the call down, as durably as configured. Raises Refusal where that fails."""
        self._write(exchange, outcome, status, error)
        if self.scribe.config.sync == "disk":
            await self.scribe.durable()

    def _write(self, exchange: Exchange, outcome: CallOutcome, status: int, error: str) -> None:
        latency_ms = exchange.ms()
        self.scribe.write(exchange.call(outcome, status, error, latency_ms))
        self._over(exchange, outcome, status)

    def _over(self, exchange: Exchange, outcome: CallOutcome, status: int) -> None:
        if exchange.is_recorded:
            return  # a record that was written and could not be made durable is counted once
        exchange.is_recorded = True
        self.metrics.ended(exchange, outcome, status, exchange.ms())
        for observe in self.observers:
            observe(exchange, outcome, status)


def _is_object(body: bytes) -> bool:
    try:
        msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _message_in(text: str) -> str:
    """The sentence in a provider's error body; the text itself where there is none."""
    try:
        found = msgspec.json.decode(text)
        return str(found["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return text or "The model refused the request."
