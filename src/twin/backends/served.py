"""Models behind an HTTP API: OpenAI's and whoever copies it, and Anthropic's.

Owns the addresses and headers of such a server. A body passes through as it is: the model's name,
or the adapter's, stands in it already. Which provider lives where is in `factories`.
"""

from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from twin.backends.backend import Ask
from twin.backends.http import Head, HttpClient, Response, Timeouts, Url, prepare
from twin.errors import BackendError
from twin.records import DialectName

PATHS: Mapping[DialectName, str] = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "responses": "/responses",
    "messages": "/messages",
}
"""Behind a base URL that ends with `/v1`."""
JSON = ((b"content-type", b"application/json"), (b"user-agent", b"cognitive-twin"))
LIVENESS = Timeouts(connect_s=2.0, first_byte_s=5.0, idle_s=5.0, deadline_s=5.0)
"""Short: it answers from memory, and somebody waits for the report."""


def bearer(secret: str) -> tuple[tuple[bytes, bytes], ...]:
    """How OpenAI and all who copy it take a secret."""
    return ((b"authorization", b"Bearer " + secret.encode("utf-8")),)


def anthropic_key(secret: str) -> tuple[tuple[bytes, bytes], ...]:
    """How Anthropic takes one."""
    return ((b"x-api-key", secret.encode("utf-8")),)


class ServedBackend:
    """One model of one server. What is the same in each request is made once for each secret."""

    def __init__(
        self,
        *,
        client: HttpClient,
        base_url: str,
        dialects: Iterable[DialectName],
        headers: Iterable[tuple[bytes, bytes]] = (),
        authorization: Callable[[str], tuple[tuple[bytes, bytes], ...]] = bearer,
    ) -> None:
        """`headers` stand instead of those that the client would send under the same name.

        Raises ValueError for a URL or header that cannot be sent."""
        self.dialects = frozenset(dialects)
        self._client = client
        self._headers = tuple(headers)
        self._authorization = authorization
        base_url = base_url.rstrip("/")
        self._urls = {dialect: Url.parse(base_url + PATHS[dialect]) for dialect in self.dialects}
        self._alive_url = Url.parse(base_url + "/models")
        self._heads: dict[tuple[DialectName, str | None], Head] = {}
        for dialect in self.dialects:
            self._head(dialect, None)

    def ask(self, ask: Ask, secret: str | None) -> Coroutine[Any, Any, Response]:
        """Not a coroutine itself: handing on the client's saves a frame in each request."""
        head = self._heads.get((ask.dialect, secret)) or self._head(ask.dialect, secret)
        return self._client.ask(head, ask.body, ask.timeouts, ask.headers)

    async def is_alive(self, secret: str | None = None) -> bool:
        """Whether the list of models can be read."""
        try:
            status, _ = await self.get(self._alive_url, secret)
        except BackendError:
            return False
        return status == 200

    async def get(self, url: Url, secret: str | None) -> tuple[int, bytes]:
        """Asks the same server for something else, such as its list of models."""
        head = prepare("GET", url, self._all_headers(secret))
        response = await self._client.ask(head, b"", LIVENESS)
        return response.status, await response.read()

    async def close(self) -> None:
        """Forgets the secrets."""
        self._heads.clear()

    def _head(self, dialect: DialectName, secret: str | None) -> Head:
        head = prepare("POST", self._urls[dialect], self._all_headers(secret))
        self._heads[dialect, secret] = head
        return head

    def _all_headers(self, secret: str | None) -> list[tuple[bytes, bytes]]:
        own = self._authorization(secret) if secret is not None else ()
        configured = {name.lower() for name, _ in self._headers}
        # Whoever configures a header means it: it stands instead of ours.
        return [
            *(pair for pair in (*JSON, *own) if pair[0] not in configured),
            *self._headers,
        ]
