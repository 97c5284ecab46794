"""One HTTP/1.1 connection and the answer that is arriving on it.

Owns parsing, flow control and the clock of a request under way. Does not choose or open
connections: `pool` does. One request at a time; nothing is ever pipelined.

A small answer that comes in one packet costs one wake-up of the asking task: head and body are
parsed in the same call, the connection goes back to its pool before the task runs, and `read()`
returns at once.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from twin.errors import BackendBroken, BackendError, BackendTimeout

HIGH_WATER = 262_144
"""Bytes that wait for a slow reader before the server is made to wait as well."""
MAX_HEAD_BYTES = 262_144
"""Of a response's status line and headers; common servers send less than 4 kB."""
JOIN_BYTES = 131_072
"""Up to here head and body are copied into one write; above, copying costs more than it saves."""
KEEP_ALIVE_S = 60.0
"""An idle connection is closed after it. Servers that close earlier are noticed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """The clock of one request, in seconds; all but `idle_s` run from its start."""

    connect_s: float
    """Until the connection stands."""
    first_byte_s: float
    """Until the head of the answer has arrived."""
    idle_s: float
    """Between two pieces of the answer. Does not run while the reader makes the server wait."""
    deadline_s: float
    """Until the last byte."""


class Response:
    """An answer whose head has arrived. Read it whole, or piece by piece, but not both at once.

    A reader that is cancelled while it waits closes the connection, so that the server sees it.
    """

    __slots__ = (
        "_connection",
        "_error",
        "_is_complete",
        "_is_stale",
        "_pieces",
        "_size",
        "_taken",
        "_waiter",
        "_wants_all",
        "headers",
        "status",
    )

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        """Names in lower case."""
        self._connection: Connection | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._taken = 0
        self._waiter: asyncio.Future[None] | None = None
        self._wants_all = False
        self._is_complete = False
        self._error: BackendError | None = None
        self._is_stale = False

    @property
    def is_complete(self) -> bool:
        """Whether `read()` would return without waiting."""
        return self._is_complete

    async def read(self) -> bytes:
        """The whole body. Raises BackendBroken where it breaks off or is too large."""
        if not self._is_complete:
            self._wants_all = True
            if self._connection is not None:
                self._connection.resume()
            while not self._is_complete:
                await self._wait()
        if self._error is not None:
            raise self.failure()
        pieces = self._pieces
        if len(pieces) == 1:
            return pieces[0]
        body = b"".join(pieces)
        self._pieces = [body]
        return body

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """What has arrived since the last call; an error only after all that came before it."""
        while not self._pieces:
            if self._error is not None:
                raise self.failure()
            if self._is_complete:
                raise StopAsyncIteration
            await self._wait()
        pieces = self._pieces
        piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._pieces = []
        self._taken += len(piece)
        if self._connection is not None:
            self._connection.resume()
        return piece

    async def close(self) -> None:
        """Ends it. In the middle of an answer this closes the connection; a finished one has gone
        back to the pool already."""
        self.abort()

    def abort(self) -> None:
        """`close` for those who cannot wait."""
        if self._connection is not None:
            self._connection.fail(BackendBroken("The answer was closed by its reader."))

    def failure(self) -> BackendError:
        """The error to raise: a new one each time, as one that were kept here would hold its
        traceback, and that this, until the garbage collector comes by."""
        assert self._error is not None
        return type(self._error)(*self._error.args)

    async def _wait(self) -> None:
        """Until something has happened: the head, a piece, the end or a fault."""
        connection = self._connection
        loop = asyncio.get_running_loop() if connection is None else connection._loop
        waiter = self._waiter = loop.create_future()
        try:
            await waiter
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """One connection to one server: idle, or busy with one request."""

    __slots__ = (
        "_deadline_at",
        "_first_byte_at",
        "_has_bytes",
        "_head_bytes",
        "_is_bodyless",
        "_is_done",
        "_is_interim",
        "_is_paused",
        "_is_reusable",
        "_is_reused",
        "_is_upload_large",
        "_last_byte_at",
        "_loop",
        "_max_bytes",
        "_on_free",
        "_parser",
        "_place",
        "_response",
        "_timeouts",
        "_timer",
        "_timer_at",
        "_transport",
        "is_open",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        place: str,
        max_bytes: int,
        on_free: Callable[["Connection"], None],
    ) -> None:
        """`on_free` is called when it can take the next request, and once when it is closed."""
        self._loop = loop
        self._place = place
        self._max_bytes = max_bytes
        self._on_free = on_free
        self._parser = HttpResponseParser(self)
        self._response: Response | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._last_byte_at = 0.0
        self._is_reused = False
        self._is_paused = False
        self.is_open = False

    # What the pool asks of it.

    def start(
        self,
        response: Response,
        head: bytes,
        body: bytes,
        timeouts: Timeouts,
        started_at: float,
        is_bodyless: bool,
    ) -> None:
        """Sends a request; `response` will be filled and woken."""
        self._response = response
        response._connection = self
        self._timeouts = timeouts
        self._is_done = False
        self._is_interim = False
        self._is_reusable = False
        self._has_bytes = False
        self._is_bodyless = is_bodyless
        self._head_bytes = 0
        self._deadline_at = started_at + timeouts.deadline_s
        self._first_byte_at = min(started_at + timeouts.first_byte_s, self._deadline_at)
        if self._timer_at > self._first_byte_at:
            self._arm(self._first_byte_at)
        self._is_upload_large = len(body) > JOIN_BYTES
        if self._is_upload_large:
            self._transport.writelines((head, body))
        else:
            self._transport.write(head + body)

    def close(self) -> None:
        """Ends the connection without ceremony; bytes not yet sent are dropped."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_at = float("inf")
        if self.is_open:
            self.is_open = False
            self._transport.abort()
            self._on_free(self)

    def fail(self, error: BackendError) -> None:
        """Ends the answer under way, if there is one, and the connection."""
        response = self._response
        if response is not None:
            self._response = None
            response._connection = None
            response._error = error
            response._is_complete = True
            response._wake()
        self.close()

    def resume(self) -> None:
        """The reader has taken something."""
        if self._is_paused:
            self._is_paused = False
            self._last_byte_at = self._loop.time()
            if self.is_open:
                self._transport.resume_reading()

    # What the transport says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:
            # Nothing was asked: whatever this is, the next answer could not be told from it.
            self.close()
            return
        self._has_bytes = True
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._is_reusable = False
            if not self._is_done:
                self.fail(BackendBroken(self._no_http(error)))
                return
        if self._is_done or (self._is_bodyless and response.status):
            self._finish(response)
            return
        if not response.status:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.fail(BackendBroken(f"{self._place} sends endless headers. Check base_url."))
            return
        if response._size > self._max_bytes:
            self.fail(BackendBroken(self._too_large()))
            return
        self._last_byte_at = self._loop.time()
        idle_at = self._last_byte_at + self._timeouts.idle_s
        if self._timer_at > idle_at:
            self._arm(idle_at)
        if not response._wants_all:
            response._wake()
            if response._size - response._taken > HIGH_WATER and not self._is_paused:
                self._is_paused = True
                self._transport.pause_reading()

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._ended(error)
        # The two hold each other, and thousands of them should not wait for the collector.
        self._parser = cast(HttpResponseParser, None)

    def _ended(self, error: Exception | None) -> None:
        response = self._response
        if response is None:
            self.close()
        elif error is None and response.status and self._ends_with_connection(response):
            self._is_reusable = False
            self._finish(response)
        elif response.status:
            self.fail(BackendBroken(f"{self._place} closed the connection in the middle of its "
                                    "answer. Ask again, and see the server's log."))  # fmt: skip
        else:
            # The server let go of the connection as the request came. Any other end, a timeout
            # above all, says that it may be at work on it: asked again it would do it twice.
            response._is_stale = self._is_reused and not self._has_bytes
            self.fail(BackendBroken(f"{self._place} closed the connection without an answer. "
                                    "Ask again, and see the server's log."))  # fmt: skip

    @staticmethod
    def _ends_with_connection(response: Response) -> bool:
        """Whether the end of the connection is the end of the body, as in HTTP/1.0."""
        return not any(
            name in (b"content-length", b"transfer-encoding") for name, _ in response.headers
        )

    # What the parser says.

    def on_message_begin(self) -> None:
        if self._is_done:
            # A second answer to one question: nothing on this connection can be trusted now.
            self._is_reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_done:
            cast(Response, self._response).headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._is_done:
            return
        response = cast(Response, self._response)
        status = self._parser.get_status_code()
        if status < 200:
            response.headers.clear()
            self._is_interim = True
        else:
            response.status = status

    def on_body(self, body: bytes) -> None:
        if not self._is_done:
            response = cast(Response, self._response)
            response._pieces.append(body)
            response._size += len(body)

    def on_message_complete(self) -> None:
        if self._is_interim:
            self._is_interim = False
        elif not self._is_done:
            self._is_done = True
            self._is_reusable = self._parser.should_keep_alive() and not self._is_bodyless

    def _finish(self, response: Response) -> None:
        """The answer is whole: the connection is free before its reader runs."""
        self._response = None
        response._connection = None
        if response._size > self._max_bytes:
            response._error = BackendBroken(self._too_large())
        response._is_complete = True
        response._wake()
        if self._is_upload_large and self._transport.get_write_buffer_size():
            # It answered before it had read the request; the rest of that would go out still.
            self._is_reusable = False
        if not self._is_reusable or not self.is_open:
            self.close()
            return
        self.resume()
        self._is_reused = True
        self._last_byte_at = self._loop.time()
        if self._timer is None:
            self._arm(self._last_byte_at + KEEP_ALIVE_S)
        self._on_free(self)

    # The clock: one timer for the connection's whole life. It is only ever moved nearer; one that
    # goes off too early is set again. So a request costs a comparison, not a timer.

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = min(at, self._loop.time() + KEEP_ALIVE_S)
        self._timer = self._loop.call_at(self._timer_at, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._timer = None
        self._timer_at = float("inf")
        at = self._due_at()
        # A millisecond's grace: uvloop's clock counts in whole ones.
        if self._loop.time() < at - 0.001:
            self._arm(at)
        elif self._response is None:
            self.close()
        else:
            self.fail(BackendTimeout(self._too_late()))

    def _due_at(self) -> float:
        if self._response is None:
            return self._last_byte_at + KEEP_ALIVE_S
        if not self._response.status:
            return self._first_byte_at
        if self._is_paused:
            return self._deadline_at
        return min(self._last_byte_at + self._timeouts.idle_s, self._deadline_at)

    def _too_late(self) -> str:
        limits = self._timeouts
        now = self._loop.time() + 0.001
        if now >= self._deadline_at:
            what, key, seconds = "did not finish", "deadline_s", limits.deadline_s
        elif cast(Response, self._response).status:
            what, key, seconds = "fell silent", "idle_s", limits.idle_s
        else:
            what, key, seconds = "did not begin to answer", "first_byte_s", limits.first_byte_s
        return f"{self._place} {what} within {seconds:g} s. Raise `{key}` if that is normal for it."

    def _too_large(self) -> str:
        return (
            f"{self._place} answered with more than {self._max_bytes} bytes. "
            "Raise `serve.max_response_bytes` if that is right."
        )

    def _no_http(self, error: Exception) -> str:
        return f"{self._place} does not answer in HTTP/1.1 ({error}). Check base_url."
