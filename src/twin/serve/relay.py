"""Sends a model's answer on to the client, in the client's dialect, and records it in time.

Owns the order that the promise rests on: the record is written before the answer's last byte goes
out. A stream is passed on as it comes; only the piece that ends it waits for the record.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from twin.backends.dialects import (
    StreamTranslator,
    estimated_tokens,
    stream_translator,
    translate_response,
    usage_of,
)
from twin.errors import BackendBroken, BackendError
from twin.records import DialectName, Usage
from twin.serve.asking import EVENT_ENDS, Opened
from twin.serve.client import Client, Headers
from twin.serve.exchange import Exchange
from twin.serve.ledger import cost_usd

_ENDS: dict[DialectName, tuple[bytes, ...]] = {
    "chat": (b"data: [DONE]", b"data:[DONE]"),
    "completions": (b"data: [DONE]", b"data:[DONE]"),
    "messages": (b"event: message_stop", b"event:message_stop"),
    "responses": (
        b"event: response.completed",
        b"event: response.incomplete",
        b"event: response.failed",
    ),
    "embeddings": (),
}
"""How a stream says that it is over. Text of a model cannot forge it: inside JSON a line break is
written as `\\n`, so no line of a stream begins with what a model said."""

_PASSED_ON = (
    b"anthropic-",
    b"openai-",
    b"ratelimit-",
    b"request-id",
    b"retry-after",
    b"x-ratelimit-",
    b"x-should-retry",
)
"""How the provider's headers begin that a client may see: limits, processing times, its own number
of the request. A list of what is let through, as others act on whoever reads them: cookies and
`access-control-*` on browsers, `x-accel-*` on proxies, `connection` on HTTP itself."""
_MAX_HEADER_BYTES = 1_000


END_S = 1.0
"""For the end of a stream whose last event has come."""

Finish = Callable[["Stream"], Awaitable[None]]
"""Records a call whose stream is about to end."""


def headers_for(exchange: Exchange, opened: Opened | None) -> Headers:
    """What the client is told beside the answer: the call's number, who answered, and the
    provider's own headers (rate limits, processing time)."""
    headers: Headers = [(b"x-request-id", exchange.call_id.encode())]
    if exchange.model:
        headers.append((b"x-twin-model", exchange.model.encode()))
    if exchange.degraded:
        headers.append((b"x-twin-degraded", b"true"))
    if opened is not None:
        headers += [
            pair
            for pair in opened.headers
            if pair[0].startswith(_PASSED_ON) and len(pair[1]) <= _MAX_HEADER_BYTES
        ]
    return headers


def usage_for(opened: Opened, data: bytes, is_stream: bool) -> Usage:
    """What the provider counted; where it did not, a quarter of the characters."""
    usage = usage_of(opened.dialect, data, is_stream)
    if usage is not None:
        return usage
    return Usage(
        num_prompt_tokens=estimated_tokens(opened.question.body),
        # Most of a stream's bytes are its own frames: about one token an event.
        num_completion_tokens=data.count(b"\ndata:") if is_stream else len(data) // 4,
        is_estimated=True,
    )


def succeed(opened: Opened, data: bytes, is_stream: bool, confidence: float | None = None) -> None:
    """Adds the attempt that answered to the exchange."""
    usage = usage_for(opened, data, is_stream)
    cost = cost_usd(opened.member.config, usage)
    opened.exchange.attempts.append(
        opened.attempt("ok", usage=usage, cost_usd=cost, confidence=confidence)
    )


def payload_of(exchange: Exchange, opened: Opened) -> bytes:
    """A whole answer in the client's dialect: the same bytes where it speaks the model's."""
    if opened.dialect == exchange.dialect:
        return opened.first
    return translate_response(opened.dialect, exchange.dialect, opened.first, exchange.asked_model)


class Stream:
    """Passes one stream on."""

    def __init__(self, exchange: Exchange, opened: Opened, client: Client) -> None:
        self.exchange = exchange
        self.opened = opened
        self.client = client
        self._rest = b""
        """An event that has only begun. It is sent when it is whole: an error could not be told
        from the middle of one."""
        self._ends = _ENDS[exchange.dialect]
        self._translator: StreamTranslator | None = None
        if opened.dialect != exchange.dialect:
            head = exchange.head
            self._translator = stream_translator(
                opened.dialect,
                exchange.dialect,
                exchange.asked_model,
                include_usage=head is not None and head.include_usage,
                request_id=exchange.call_id,
            )
        self._sent: list[bytes] = []
        """What the client received, kept only where it is not what the model sent."""
        self._is_over = False

    async def pass_on(self, finish: Finish) -> None:
        """Everything up to the end; `finish` is awaited once, before the last event goes out.

        Raises BackendError where the stream broke before its end; nothing is recorded then.
        """
        opened = self.opened
        assert opened.pieces is not None
        piece = opened.first
        while piece:
            opened.chunk_ms.append(self.exchange.ms())
            opened.received.append(piece)
            if self._translator is not None:
                piece = self._translator.feed(piece)
            if piece:
                await self._send(self._whole_events(piece), finish)
                if self._is_over:
                    await self._let_end(opened.pieces)
                    return
            piece = await anext(opened.pieces, b"")
        last = self._rest
        if self._translator is not None:
            last += self._translator.end()
        await self._send(last, finish)
        if not self._is_over:
            if b'"finish_reason":"' not in b"".join(opened.received[-3:]).replace(b" ", b""):
                raise BackendBroken("The stream ended before the answer did.")
            await finish(self)  # a server that says [DONE] by hanging up

    def _whole_events(self, piece: bytes) -> bytes:
        """What can go out now: everything up to the end of the last whole event."""
        if not self._rest and piece.endswith(EVENT_ENDS):
            return piece
        data = self._rest + piece
        cut = max(data.rfind(end) + len(end) if end in data else 0 for end in EVENT_ENDS)
        self._rest = data[cut:]
        return data[:cut]

    async def _send(self, events: bytes, finish: Finish) -> None:
        if not events:
            return
        if self._translator is not None:
            self._sent.append(events)
        if self._ends_in(events):
            self._is_over = True
            await finish(self)
        await self.client.piece(events)

    def _ends_in(self, events: bytes) -> bool:
        """Whether the mark that ends the stream begins a line of these whole events."""
        for mark in self._ends:
            at = events.find(mark)
            while at >= 0:
                if at == 0 or events[at - 1] in b"\r\n":
                    return True
                at = events.find(mark, at + 1)
        return False

    async def _let_end(self, pieces: AsyncIterator[bytes]) -> None:
        """Gives the server a moment to end its answer properly, so that its connection can be used
        again. The client has everything already."""
        with contextlib.suppress(BackendError, TimeoutError):
            async with asyncio.timeout(END_S):
                while await anext(pieces, b""):
                    pass

    @property
    def sent(self) -> bytes | None:
        """What the client received, where it differs from what the model sent."""
        return None if self._translator is None else b"".join(self._sent)
