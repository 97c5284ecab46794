"""The seam between the gateway and whoever answers: one question, one reply.

Owns the two shapes that cross it. A backend speaks one or more dialects natively; what comes back
is the provider's own bytes, whatever its status. Retries, accounts and translation are not its
business.
"""

from collections.abc import AsyncIterator, Coroutine
from typing import Any, Protocol

import msgspec

from twin.backends.connection import Timeouts
from twin.records import DialectName


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One request to one model, ready to be sent."""

    dialect: DialectName
    """One of the backend's own."""
    body: bytes
    """Complete, with the name that the provider knows the model by."""
    stream: bool
    """Whether `body` asks for server-sent events. What comes back can be plain JSON all the same,
    as errors are: the reply's content type says."""
    timeouts: Timeouts
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """The caller's own that are passed on, such as `anthropic-beta`. Never its key."""


class Reply(Protocol):
    """An answer whose head has arrived; its body comes whole or in pieces, not both."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Names in lower case."""
        ...

    async def read(self) -> bytes:
        """Raises BackendBroken or BackendTimeout where the rest does not come."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Pieces as they arrive; raises as `read` does, after the last piece that came."""
        ...

    async def close(self) -> None:
        """Also in the middle: the provider sees that nobody listens any more."""
        ...


class Backend(Protocol):
    """One configured model, wherever it runs. Safe to ask many times at once."""

    @property
    def dialects(self) -> frozenset[DialectName]:
        """What it speaks natively; the caller translates the rest."""
        ...

    def ask(self, ask: Ask, secret: str | None) -> Coroutine[Any, Any, Reply]:
        """Raises BackendUnreachable (nothing was sent), BackendTimeout or BackendBroken. A status
        such as 429 is a reply, not an error."""
        ...

    async def is_alive(self, secret: str | None = None) -> bool:
        """Whether it would answer, found out without asking the model. Never raises."""
        ...

    async def close(self) -> None:
        """Gives back what is its own; the HTTP client is not."""
        ...
