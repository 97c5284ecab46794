"""One TCP connection: how long and how large a request may take to arrive.

uvicorn waits for the end of a request for as long as a client likes and keeps whatever comes; a
stranger could hold sockets and memory with half a request. Owns those bounds and the answer to what
is no HTTP. What a request says is `app`'s business.
"""

import asyncio
import time
from collections import deque

import httptools
from uvicorn.server import ServerState

from twin.backends.dialects import error_body
from twin.serve.exchange import new_call_id
from twin.serve.protocol import Protocol

MAX_HEAD_BYTES = 65_536
"""Request line and headers; servers elsewhere take 8 to 32 kB."""
HEAD_S = 30.0
"""Until they are there, from the connection's or the request's first byte."""
BODY_S = 60.0
MIN_BYTES_PER_S = 10_000.0
"""A body has a minute, and longer the more of it has come: slower than this is nobody's uplink."""
STUCK_S = 60.0
"""An answer of which the client takes nothing for this long is thrown away with its connection."""
LOOK_EVERY_S = 1.0

_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}
_UPGRADES = frozenset({b"connection", b"upgrade", b"http2-settings"})

_NOWHERE: deque[tuple[bytes, bytes]] = deque(maxlen=0)
"""Takes the headers that come behind a body: nobody reads those, and they could go on."""


class Connection(Protocol):
    """uvicorn's, with bounds."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wire = transport
        self._counted: object = None
        """The scope of the message that `_num_bytes` counts."""
        self._num_bytes = 0
        self._since = time.monotonic()
        self._stuck_since = 0.0
        self._stuck_bytes = 0

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("This is no HTTP request. Speak HTTP/1.1.")
            return
        if self.scope is not self._counted:
            self._counted = self.scope
            self._num_bytes = 0
            self._since = time.monotonic()
        self._num_bytes += len(data)
        if self._num_bytes > MAX_HEAD_BYTES:
            self._check_size()

    def on_headers_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            self.headers = _NOWHERE  # type: ignore[assignment]

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _stay(self, rest: bytes) -> None:
        """Goes on in HTTP/1.1 where the client would rather speak something newer, as Java's does
        with each first request: the parser has let go of the body, so another one reads the request
        again, without that wish."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.send_400_response("This is no proxy. Ask for a path.")
            return
        lines = [b"%s %s HTTP/1.1" % (method, self.url)]
        lines += [b"%s: %s" % pair for pair in self.headers if pair[0] not in _UPGRADES]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        try:
            self.parser.feed_data(b"\r\n".join(lines) + b"\r\n\r\n" + rest)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.send_400_response("This is no HTTP request. Speak HTTP/1.1.")

    @property
    def _is_in_head(self) -> bool:
        return self.cycle is None or self.cycle.scope is not self.scope

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _check_size(self) -> None:
        if self._is_in_head:
            self._refuse(431, f"The headers are larger than {MAX_HEAD_BYTES:,} bytes. Send less.")
        elif self._num_bytes > 4 * self.app.max_body_bytes + 1_000_000:
            # What `app` keeps of a body it counts itself; this is what it refused, tiny chunks, or
            # a trailer.
            self._wire.abort()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _refuse(self, status: int, message: str) -> None:
        """Answers and hangs up; only hangs up in the middle of another answer."""
        if self.transport.is_closing():
            return
        if not self._is_answering or (not self.cycle.response_started and not self._is_in_head):
            call_id = new_call_id()
            body = error_body("chat", status, message, "invalid_request_error", call_id)
            self.transport.write(
                b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"x-request-id: %s\r\nconnection: close\r\n\r\n%s"
                % (status, _REASONS[status], len(body), call_id.encode(), body)
            )
        self.transport.close()

    def look(self, now: float) -> None:
        """Hangs up where the client neither finishes its request nor takes its answer."""
        unsent = self._wire.get_write_buffer_size()
        if unsent == 0 or unsent != self._stuck_bytes:
            self._stuck_bytes = unsent
            self._stuck_since = now
        elif now - self._stuck_since > STUCK_S:
            self._wire.abort()
            return
        if self.transport.is_closing():
            return
        waited = now - self._since
        if self._is_in_head:
            if waited > HEAD_S and not self._is_answering:
                self._refuse(408, f"No whole request came within {HEAD_S:g} s. Send it at once.")
        elif not self.cycle.more_body:
            pass
        elif self.cycle.response_complete:
            if waited > HEAD_S:
                self.transport.close()  # it goes on sending what was refused
        elif waited > BODY_S + self._num_bytes / MIN_BYTES_PER_S:
            self._refuse(408, f"The body did not come within {waited:.0f} s. Send it faster.")


async def look_after(state: ServerState) -> None:
    """Looks at every connection once a second, as long as the process lives: a timer for each
    request would cost each request."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        now = time.monotonic()
        for connection in list(state.connections):
            if isinstance(connection, Connection):
                connection.look(now)
