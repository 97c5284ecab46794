"""The HTTP surface: which path leads where, and how a body is read.

Raw ASGI, since a framework's routing and validation cost more than everything else here together.
Owns the limits on what a stranger may send; what a call means is `gateway`'s business.
"""

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import msgspec
import structlog

from twin.backends.dialects import error_body
from twin.records import DialectName
from twin.serve.admin import Admin
from twin.serve.client import Client, Headers, Message, Receive, Scope, Send
from twin.serve.exchange import new_call_id
from twin.serve.gateway import Gateway
from twin.serve.openapi import DOCUMENT
from twin.serve.refusal import Refusal
from twin.serve.side import Side

DIALECTS: dict[str, DialectName] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    # Clients whose base URL was set without `/v1`.
    "/chat/completions": "chat",
    "/completions": "completions",
    "/embeddings": "embeddings",
    "/responses": "responses",
}

Handler = Callable[[dict[bytes, bytes], bytes], Awaitable[tuple[int, object]]]

log = structlog.get_logger("twin.serve")

MAX_BODIES_AT_ONCE = 16
"""As many bodies of the largest size may be here together, arriving or being answered."""
MAX_HELD_BYTES = 1_000_000_000
"""Of all bodies together, however large one may be."""
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


class App:
    """The ASGI application."""

    def __init__(self, gateway: Gateway, side: Side, admin: Admin) -> None:
        self.gateway = gateway
        self.side = side
        self.admin = admin
        self._num_held_bytes = 0
        """Of bodies that are arriving or being answered."""
        self._get: dict[str, Handler] = {
            "/health": side.health,
            "/ready": side.ready,
            "/v1/models": side.models,
            "/models": side.models,
            "/openapi.json": self._document,
        }
        self._post: dict[str, Handler] = {
            "/v1/feedback": side.feedback,
            "/v1/messages/count_tokens": side.count_tokens,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _no_websocket(scope, send)
            return
        path: str = scope["path"]
        dialect = DIALECTS.get(path)
        client = Client(receive, send)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            if b"origin" in headers:
                self._check_origin(headers[b"origin"])
            if dialect is not None and scope["method"] == "POST":
                body = await self._body(headers, receive)
                if body is not None:
                    try:
                        await self.gateway.answer(dialect, body, headers, client)
                    finally:
                        self._num_held_bytes -= len(body)
                return
            await self._beside(scope, path, dialect, headers, receive, client)
        except Refusal as refusal:
            await _refuse(refusal, _family(dialect, path, headers), client)
        except Exception as error:
            # The edge of every other request; calls to models have their own in `gateway`.
            log.exception("request_failed", path=path[:200])
            if client.has_begun:
                raise
            sentence = f"The gateway failed ({type(error).__name__}); its log has the details."
            fault = Refusal(500, "internal_error", sentence)
            await _refuse(fault, _family(dialect, path, headers), client)

    def _check_origin(self, origin: bytes) -> None:
        """A page on the internet that somebody has open could spend their budget here, where no key
        is needed: browsers send such requests, and say from where."""
        if self.gateway.requires_keys:
            return
        text = origin.decode("latin-1").lower()
        if text == "null" or (text.startswith("http") and _host(text) not in _LOCAL):
            raise Refusal(
                403,
                "origin_not_allowed",
                f"Pages of {text[:200]} may not ask without a key. Set `serve.require_keys` and "
                "give them one.",
            )

    @property
    def max_body_bytes(self) -> int:
        return self.gateway.config.serve.max_body_bytes

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body, within the limit; None where the client hung up while sending it. Its
        bytes are counted as held: whoever gets it lets go of them."""
        limit = self.max_body_bytes
        announced = headers.get(b"content-length", b"0")
        if len(announced) > 18 or int(announced) > limit:
            raise self._too_large(limit)
        encoding = headers.get(b"content-encoding", b"identity").lower()
        if encoding not in (b"identity", b""):
            raise Refusal(
                415,
                "unsupported_encoding",
                f"Bodies encoded as {encoding.decode('latin-1')[:40]} are not read. Send it plain.",
            )
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        first: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            self._hold(len(first))
            return first
        if self.gateway.requires_keys:
            # Before anything large is kept: strangers could fill the memory. Admins have a key of
            # their own and nothing large to say.
            self.gateway.keyring.find(headers)
        return await self._rest(first, receive, limit)

    async def _rest(self, first: bytes, receive: Receive, limit: int) -> bytes | None:
        """A body that did not come in one piece."""
        self._hold(len(first))
        parts = [first]
        size = len(first)
        is_whole = False
        try:
            while not is_whole:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                part: bytes = message.get("body", b"")
                if size + len(part) > limit:
                    raise self._too_large(limit)
                self._hold(len(part))
                size += len(part)
                parts.append(part)
                is_whole = not message.get("more_body", False)
            return b"".join(parts)
        finally:
            if not is_whole:
                self._num_held_bytes -= size

    def _hold(self, num_bytes: int) -> None:
        """Raises Refusal (503) where that is more than may be in memory at once."""
        allowed = min(MAX_HELD_BYTES, MAX_BODIES_AT_ONCE * self.max_body_bytes)
        if num_bytes and self._num_held_bytes + num_bytes > allowed:
            raise Refusal(
                503,
                "overloaded",
                f"The requests under way are {allowed / 1e6:,.0f} MB already. Try again later.",
                retry_after_s=1.0,
            )
        self._num_held_bytes += num_bytes

    @staticmethod
    def _too_large(limit: int) -> Refusal:
        return Refusal(
            413,
            "request_too_large",
            f"The request is larger than {limit:,} bytes. Send less, or raise "
            "`serve.max_body_bytes`.",
        )

    async def _beside(
        self,
        scope: Scope,
        path: str,
        dialect: DialectName | None,
        headers: dict[bytes, bytes],
        receive: Receive,
        client: Client,
    ) -> None:
        """Everything that is no call to a model."""
        method: str = scope["method"]
        if method in ("GET", "HEAD") and path == "/metrics":
            text = await self.side.metrics(headers)
            await client.respond(200, [], text, b"text/plain; version=0.0.4; charset=utf-8")
            return
        handler = self._handler(method, path)
        if handler is None:
            raise self._nothing(method, path, dialect)
        body = await self._body(headers, receive)
        if body is None:
            return
        try:
            status, answer = await handler(headers, body)
        finally:
            self._num_held_bytes -= len(body)
        payload = b"" if answer is None else msgspec.json.encode(answer)
        await client.respond(status, [], payload)

    def _handler(self, method: str, path: str) -> Handler | None:
        if path.startswith("/admin/"):
            return self.admin.handler(method, path)
        if method in ("GET", "HEAD") and path.startswith("/v1/models/"):
            name = path.removeprefix("/v1/models/")
            return lambda headers, body: self.side.model(headers, name)
        table = {"GET": self._get, "HEAD": self._get, "POST": self._post}.get(method, {})
        return table.get(path)

    def _nothing(self, method: str, path: str, dialect: DialectName | None) -> Refusal:
        """Why nothing answers: no such place, or another method."""
        if dialect or path in self._post:
            allowed = "POST"
        elif path in self._get or path == "/metrics" or path.startswith("/v1/models/"):
            allowed = "GET"
        else:
            return Refusal(
                404, "not_found", f"There is nothing at {path[:200]}. See /openapi.json."
            )
        sentence = f"{path[:200]} takes {allowed} only."
        return Refusal(405, "method_not_allowed", sentence, allowed=allowed)

    async def _document(self, headers: dict[bytes, bytes], body: bytes) -> tuple[int, object]:
        return 200, DOCUMENT


async def _no_websocket(scope: Scope, send: Send) -> None:
    """Lifespan is off; a websocket is refused before it opens."""
    if scope["type"] == "websocket":
        message: Message = {"type": "websocket.close", "code": 1003}
        await send(message)


async def _refuse(refusal: Refusal, family: DialectName, client: Client) -> None:
    """Says no in the caller's dialect. Where the body is still on its way, the connection stays
    and `connection` drops the rest: closing would reset it, and the answer would be lost."""
    call_id = new_call_id()
    text = error_body(family, refusal.status, refusal.message, refusal.code, call_id)
    headers: Headers = [(b"x-request-id", call_id.encode()), *refusal.headers()]
    await client.respond(refusal.status, headers, text)


def _family(dialect: DialectName | None, path: str, headers: dict[bytes, bytes]) -> DialectName:
    """The dialect in which a caller understands an error."""
    if dialect is not None:
        return dialect
    is_anthropic = path.startswith("/v1/messages") or b"anthropic-version" in headers
    return "messages" if is_anthropic else "chat"


def _host(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""
