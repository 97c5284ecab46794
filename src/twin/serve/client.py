"""The other end of a call: what goes out to the client, and whether it is still there.

Speaks raw ASGI. Knows nothing of models; every method sends exactly what it is given.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

LOOK_EVERY_S = 0.05
"""Only calls that outlast one look at all of them, or two, are watched: a task or a timer for each
would cost more than passing on a small answer does."""

_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_NO_CACHE = (b"cache-control", b"no-cache")


class HangUp(Exception):
    """The client has gone, or takes nothing any more."""


class Client:
    """One request's way back."""

    __slots__ = (
        "_gone",
        "_receive",
        "_send",
        "_sending",
        "_sent_at",
        "_task",
        "_watch",
        "began",
        "has_begun",
    )

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.has_begun = False
        """Its first byte has gone out: no other model can answer any more."""
        self.began = time.monotonic()
        self._gone = False
        self._sending = False
        self._sent_at = 0.0
        self._task: asyncio.Task[Any] | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def is_gone(self) -> bool:
        """It hung up, and that is why the task was cancelled."""
        return self._gone

    def stuck_s(self, now: float) -> float:
        """How long it has taken nothing of what is being sent."""
        return now - self._sent_at if self._sending else 0.0

    def hang_up(self) -> None:
        """Ends the work for it."""
        self._gone = True
        if self._task is not None:
            self._task.cancel()

    def _listen(self) -> None:
        if self._watch is None:
            self._watch = asyncio.create_task(self._wait_for_end())

    async def _wait_for_end(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.hang_up()

    async def respond(
        self, status: int, headers: Headers, body: bytes, content_type: bytes | None = None
    ) -> None:
        """A whole answer at once."""
        self.has_begun = True
        kind = _JSON if content_type is None else (b"content-type", content_type)
        length = (b"content-length", str(len(body)).encode())
        await self._put(
            {"type": "http.response.start", "status": status, "headers": [kind, length, *headers]}
        )
        await self._put({"type": "http.response.body", "body": body})

    async def start_stream(self, headers: Headers) -> None:
        """The head of server-sent events."""
        self.has_begun = True
        start = [_EVENTS, _NO_CACHE, *headers]
        await self._put({"type": "http.response.start", "status": 200, "headers": start})

    async def piece(self, data: bytes) -> None:
        """A piece of a stream, as soon as the client takes it."""
        await self._put({"type": "http.response.body", "body": data, "more_body": True})

    async def end_stream(self) -> None:
        await self._put({"type": "http.response.body", "body": b""})

    async def _put(self, message: Message) -> None:
        self._sending = True
        self._sent_at = time.monotonic()
        try:
            await self._send(message)
        except OSError as error:
            self._gone = True
            raise HangUp from error
        finally:
            self._sending = False


class Watch:
    """Looks after every call of the process: whose client has gone, or reads nothing any more."""

    def __init__(self, idle_s: float = 60.0) -> None:
        """`idle_s`: how long a client may take nothing of what is being sent; it holds memory and
        a place all that time."""
        self._idle_s = idle_s
        self._clients: set[Client] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._looking = False

    def begin(self, client: Client) -> None:
        """From now on the current task is cancelled when this client hangs up."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        # Given the loop, since looking for it is a system call each time (before Python 3.12).
        client._task = asyncio.current_task(self._loop)
        self._clients.add(client)
        if not self._looking:
            self._looking = True
            self._loop.call_later(LOOK_EVERY_S, self._look)

    def end(self, client: Client) -> None:
        self._clients.discard(client)
        client._task = None
        if client._watch is not None:
            client._watch.cancel()

    def _look(self) -> None:
        now = time.monotonic()
        for client in list(self._clients):
            if now - client.began >= LOOK_EVERY_S:
                client._listen()
            if client.stuck_s(now) >= self._idle_s:
                client.hang_up()
        self._looking = bool(self._clients)
        if self._looking and self._loop is not None:
            self._loop.call_later(LOOK_EVERY_S, self._look)
