"""The connections to one server: which are free, how many there may be, who waits for one.

Owns opening and reuse. The last one used is the first one reused, so that a quiet hour lets the
others go. Does not know HTTP.
"""

import asyncio
import socket
import ssl
from collections import deque

from twin.backends.connection import Connection, Timeouts
from twin.backends.url import Url
from twin.errors import BackendBroken, BackendTimeout, BackendUnreachable

STOPPING = "The gateway is stopping. Ask again when it is back."


class Pool:
    """Connections to one scheme, host and port."""

    def __init__(self, url: Url, limit: int, max_bytes: int, tls: ssl.SSLContext | None) -> None:
        self._scheme, self._host, self._port = url.origin
        self._place = url.place
        self._limit = limit
        self._max_bytes = max_bytes
        self._tls = tls
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._num_opening = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._is_closed = False

    def take_idle(self) -> Connection | None:
        """A connection that stands already. Those that the server closed are not among them."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.is_open:
                return connection
        return None

    async def take(self, timeouts: Timeouts, started_at: float, *, is_fresh: bool) -> Connection:
        """A connection, opened if need be; waits its turn where the limit is reached."""
        has_waited = False
        while not self._is_closed:
            if not is_fresh and (connection := self.take_idle()) is not None:
                return connection
            if len(self._open) + self._num_opening < self._limit:
                return await self._connect(timeouts, started_at)
            if is_fresh and (idle := self.take_idle()) is not None:
                idle.close()
                continue
            await self._wait_turn(timeouts, started_at, is_first=has_waited)
            has_waited = True
        raise BackendUnreachable(STOPPING)

    async def _wait_turn(self, timeouts: Timeouts, started_at: float, *, is_first: bool) -> None:
        waiter = asyncio.get_running_loop().create_future()
        if is_first:
            # Somebody was quicker when it was woken: it keeps its place.
            self._waiters.appendleft(waiter)
        else:
            self._waiters.append(waiter)
        try:
            async with asyncio.timeout_at(started_at + timeouts.deadline_s):
                await waiter
        except TimeoutError:
            raise BackendTimeout(
                f"All {self._limit} connections to {self._place} were busy for "
                f"{timeouts.deadline_s:g} s. Lower the load or raise the limit."
            ) from None
        except asyncio.CancelledError:
            if not waiter.cancelled():
                # It was woken and cancelled at once: the turn is the next one's.
                self._wake_next()
            raise

    async def _connect(self, timeouts: Timeouts, started_at: float) -> Connection:
        limit_s = min(timeouts.connect_s, timeouts.deadline_s)
        self._num_opening += 1
        connection: Connection | None = None
        try:
            async with asyncio.timeout(limit_s):
                connection = await self._connect_to_any(limit_s)
        except TimeoutError:
            raise BackendTimeout(
                f"{self._place} did not accept a connection within {timeouts.connect_s:g} s. "
                "Check that it is up and reachable, or raise `connect_s`."
            ) from None
        except ssl.SSLCertVerificationError as error:
            raise BackendUnreachable(
                f"The certificate of {self._place} is not trusted ({error.verify_message}). Name "
                "its authority's file in SSL_CERT_FILE."
            ) from error
        except (OSError, UnicodeError) as error:
            raise BackendUnreachable(
                f"Cannot connect to {self._place} ({_reason(error)}). Start the server there, or "
                "correct base_url."
            ) from error
        finally:
            self._num_opening -= 1
            if connection is not None:
                self._open.add(connection)
            else:
                # Whoever waits may try in this one's place.
                self._wake_next()
        if self._is_closed:
            connection.close()
            raise BackendUnreachable(STOPPING)
        return connection

    async def _connect_to_any(self, limit_s: float) -> Connection:
        """Tries each address of the host in turn. One that swallows packets, as IPv6 does where it
        is half set up, must not use up the time of the others."""
        loop = asyncio.get_running_loop()
        addresses = await addresses_of(self._host, self._port)
        for num_left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            try:
                async with asyncio.timeout(limit_s / num_left if num_left > 1 else None):
                    _, connection = await loop.create_connection(
                        lambda: Connection(loop, self._place, self._max_bytes, self._freed),
                        *address,
                        ssl=self._tls,
                        server_hostname=self._host if self._tls is not None else None,
                    )
                    return connection
            except ssl.SSLError:
                raise
            except OSError:
                # Includes TimeoutError.
                if num_left == 1:
                    raise
        raise OSError(f"{self._host} has no address")

    def _freed(self, connection: Connection) -> None:
        """Called by a connection that is idle now, or closed."""
        if not connection.is_open:
            self._open.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
        else:
            self._idle.append(connection)
        if self._waiters:
            self._wake_next()

    def _wake_next(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def close(self) -> None:
        """Ends all of them, also those that are busy."""
        self._is_closed = True
        for connection in list(self._open):
            connection.fail(BackendBroken(STOPPING))
        while self._waiters:
            self._wake_next()


async def addresses_of(host: str, port: int) -> list[tuple[str, int]]:
    """Address and port of each that the name resolves to. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(str(address[0]), int(address[1])) for *_, address in found]


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
