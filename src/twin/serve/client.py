"""The other end of a call: what goes out to the client, and whether it is still there.

Speaks raw ASGI. Knows nothing of models; every method sends exactly what it is given.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

WATCH_AFTER_S = 0.05
"""Only calls that last longer are watched: a task for each costs more than most small answers."""

_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_NO_CACHE = (b"cache-control", b"no-cache")


class HangUp(Exception):
    """The client has gone, or takes nothing any more."""


class Client:
    """One request's way back."""

    __slots__ = (
        "_gone",
        "_idle_s",
        "_loop",
        "_receive",
        "_send",
        "_sending",
        "_sent_at",
        "_task",
        "_timer",
        "_watch",
        "has_begun",
    )  # fmt: skip

    def __init__(self, receive: Receive, send: Send, *, idle_s: float = 60.0) -> None:
        """`idle_s`: how long a client may take nothing of what is being sent."""
        self._receive = receive
        self._send = send
        self._idle_s = idle_s
        self.has_begun = False
        """Its first byte has gone out: no other model can answer any more."""
        self._gone = False
        self._sending = False
        self._sent_at = 0.0
        self._task: asyncio.Task[Any] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """From now on the current task is cancelled when the client hangs up."""
        self._task = asyncio.current_task()
        self._timer = self._loop.call_later(WATCH_AFTER_S, self._begin_watching)

    def unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        self._task = None

    @property
    def is_gone(self) -> bool:
        """It hung up, and that is why the task was cancelled."""
        return self._gone

    def _begin_watching(self) -> None:
        self._watch = self._loop.create_task(self._wait_for_end())
        self._timer = self._loop.call_later(self._idle_s, self._look_for_progress)

    async def _wait_for_end(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._hang_up()

    def _look_for_progress(self) -> None:
        """A client that reads nothing for `idle_s` holds memory and a place for nothing."""
        stuck_s = self._loop.time() - self._sent_at if self._sending else 0.0
        if stuck_s >= self._idle_s:
            self._hang_up()
            return
        self._timer = self._loop.call_later(self._idle_s - stuck_s, self._look_for_progress)

    def _hang_up(self) -> None:
        self._gone = True
        if self._task is not None:
            self._task.cancel()

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
        self._sent_at = self._loop.time()
        try:
            await self._send(message)
        except OSError as error:
            self._gone = True
            raise HangUp from error
        finally:
            self._sending = False
