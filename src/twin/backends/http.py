"""The HTTP/1.1 client that asks models: small, and as fast as Python allows.

Owns what a request looks like on the wire and when it is asked again. Knows no provider. The
general clients cost several times as much for each request, which is most of what a gateway adds.

No HTTP proxies (`HTTP_PROXY` is not read), no redirects, no cookies, no compression: it asks for
`identity`, so that what the model said passes through as it is.
"""

import asyncio
import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass

from twin.backends.connection import Response, Timeouts
from twin.backends.pool import Pool
from twin.backends.url import Origin, Url

__all__ = ["Head", "HttpClient", "Response", "Timeouts", "Url", "prepare"]

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_METHOD = re.compile(r"[A-Z]+")
OURS = frozenset(
    (b"accept-encoding", b"connection", b"content-length", b"expect", b"host", b"keep-alive",
     b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)  # fmt: skip
"""Headers that frame a message. Whoever else could set them could smuggle a second request in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """All of a request that is the same each time, as bytes. Holds a secret: never shown."""

    url: Url
    start: bytes
    is_bodyless: bool = False
    """The answer to HEAD has a length and no body."""

    def __repr__(self) -> str:
        return f"Head({self.url.place})"


def prepare(method: str, url: Url, headers: Iterable[tuple[bytes, bytes]]) -> Head:
    """Raises ValueError where a header could end the request early or frame it otherwise."""
    if not _METHOD.fullmatch(method):
        raise ValueError("an HTTP method is written in capital letters")
    start = b"%s %s HTTP/1.1\r\nhost: %s\r\naccept-encoding: identity\r\n%s" % (
        method.encode("ascii"),
        url.target,
        url.host,
        encode_headers(headers),
    )
    return Head(url=url, start=start, is_bodyless=method == "HEAD")


def encode_headers(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The header lines. The message of the ValueError names the header, never its value."""
    lines = []
    for name, value in headers:
        if not _NAME.fullmatch(name):
            raise ValueError("a header's name holds a character that HTTP does not allow")
        shown = name.decode("ascii")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the header `{shown}` holds a line break or control character")
        if name.lower() in OURS:
            raise ValueError(f"the header `{shown}` belongs to the client; leave it out")
        lines.append(b"%s: %s\r\n" % (name, value))
    return b"".join(lines)


class HttpClient:
    """One for a process and its event loop. Keeps connections and uses them again."""

    def __init__(
        self, *, max_connections_per_host: int = 512, max_response_bytes: int = 64_000_000
    ) -> None:
        self._limit = max_connections_per_host
        self._max_bytes = max_response_bytes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pools: dict[Origin, Pool] = {}
        self._tls: ssl.SSLContext | None = None

    async def send(
        self,
        method: str,
        url: Url,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        timeouts: Timeouts,
    ) -> Response:
        """Returns when the head of the answer has arrived, whatever its status.

        Raises BackendUnreachable where no connection came about, so that nothing was sent;
        BackendTimeout; BackendBroken where the answer is no HTTP or does not come; ValueError where
        a header or the method could smuggle something in.
        """
        return await self.ask(prepare(method, url, headers), body, timeouts)

    async def ask(
        self,
        head: Head,
        body: bytes,
        timeouts: Timeouts,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> Response:
        """`send` with what is the same each time prepared; `headers` are added to it.

        A connection that was used before can have been closed by the server while the request was
        on its way. Where not one byte came back on such a one, the request is sent once more, on a
        new connection.
        """
        if self._loop is None:  # Looking for it is a system call each time before Python 3.12.
            self._loop = asyncio.get_running_loop()
        started_at = self._loop.time()
        start = head.start + encode_headers(headers) if headers else head.start
        start += b"content-length: %d\r\n\r\n" % len(body)
        pool = self._pools.get(head.url.origin) or self._add_pool(head.url)
        connection = pool.take_idle()
        if connection is None:
            connection = await pool.take(timeouts, started_at, is_fresh=False)
        response = Response()
        connection.start(response, start, body, timeouts, started_at, head.is_bodyless)
        await response._wait()
        if response._is_stale:
            response = Response()
            connection = await pool.take(timeouts, started_at, is_fresh=True)
            connection.start(response, start, body, timeouts, started_at, head.is_bodyless)
            await response._wait()
        if response._error is not None and not response.status:
            raise response.failure()
        return response

    def _add_pool(self, url: Url) -> Pool:
        tls = None
        if url.origin[0] == "https":
            # Reads SSL_CERT_FILE and SSL_CERT_DIR; costs milliseconds, so it is made once.
            self._tls = tls = self._tls or ssl.create_default_context()
        pool = self._pools[url.origin] = Pool(url, self._limit, self._max_bytes, tls)
        return pool

    async def close(self) -> None:
        """Ends all connections, also those with an answer under way."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        # One turn of the loop lets the transports say goodbye.
        await asyncio.sleep(0)
