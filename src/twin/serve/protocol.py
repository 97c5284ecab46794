"""uvicorn's HTTP protocol, with its writes put together.

uvicorn writes an answer's head and body apart, and each write is a system call and a packet that
wakes the client up: a fifth of what passing on a small answer costs. Here what is written within
one turn of the event loop goes out at once at its end.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

DIRECT_BYTES = 65_536
"""More than this is not gathered: copying it would cost more than a system call."""


class OneWrite(asyncio.Transport):
    """A transport in front of another one. What uvicorn does with a transport, and no more."""

    def __init__(self, transport: asyncio.Transport, call_soon: Callable[..., Any]) -> None:
        super().__init__()
        self._transport = transport
        self._call_soon = call_soon
        self._waiting: list[bytes] = []

        # Everything but writing goes straight to the real one, without a call in between.
        self.get_extra_info = transport.get_extra_info  # type: ignore[method-assign]
        self.is_closing = transport.is_closing  # type: ignore[method-assign]
        self.pause_reading = transport.pause_reading  # type: ignore[method-assign]
        self.resume_reading = transport.resume_reading  # type: ignore[method-assign]
        self.set_protocol = transport.set_protocol  # type: ignore[method-assign]

    def write(self, data: Any) -> None:
        waiting = self._waiting
        if not waiting:
            if len(data) > DIRECT_BYTES:
                self._transport.write(data)
                return
            self._call_soon(self._flush)
        waiting.append(data)

    def _flush(self) -> None:
        waiting = self._waiting
        if waiting:
            data = waiting[0] if len(waiting) == 1 else b"".join(waiting)
            waiting.clear()
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()


class Protocol(HttpToolsProtocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(OneWrite(transport, self.loop.call_soon))
