"""The HTTP surface: which path leads where, and how a body is read.

Raw ASGI, since a framework's routing and validation cost more than everything else here together.
Owns the limits on what a stranger may send; what a call means is `gateway`'s business.
"""

from collections.abc import Awaitable, Callable

import msgspec

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


class App:
    """The ASGI application."""

    def __init__(self, gateway: Gateway, side: Side, admin: Admin) -> None:
        self.gateway = gateway
        self.side = side
        self.admin = admin
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
            if dialect is not None and scope["method"] == "POST":
                body = await self._body(headers, receive)
                if body is not None:
                    await self.gateway.answer(dialect, body, headers, client)
                return
            await self._beside(scope, path, dialect, headers, receive, client)
        except Refusal as refusal:
            call_id = new_call_id()
            text = error_body(
                dialect or "chat", refusal.status, refusal.message, refusal.code, call_id
            )
            more: Headers = [(b"x-request-id", call_id.encode()), *refusal.headers()]
            if refusal.status == 413:
                more.append((b"connection", b"close"))  # the rest of the body is not read
            await client.respond(refusal.status, more, text)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body, within the limit; None where the client hung up while sending it."""
        limit = self.gateway.config.serve.max_body_bytes
        announced = headers.get(b"content-length", b"0")
        if len(announced) > 18 or int(announced) > limit:
            raise self._too_large(limit)
        encoding = headers.get(b"content-encoding", b"identity")
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
            return first
        parts = [first]
        size = len(first)
        while message.get("more_body", False):
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise self._too_large(limit)
            parts.append(part)
        return b"".join(parts)

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
        if method == "GET" and path == "/metrics":
            text = self.gateway.metrics.exposition()
            await client.respond(200, [], text, b"text/plain; version=0.0.4; charset=utf-8")
            return
        handler = self._handler(method, path)
        if handler is None:
            allowed = "POST" if dialect or path in self._post else "GET"
            known = dialect or path in self._post or path in self._get
            raise (
                Refusal(405, "method_not_allowed", f"{path} takes {allowed} only.")
                if known
                else Refusal(
                    404, "not_found", f"There is nothing at {path[:200]}. See /openapi.json."
                )
            )
        body = await self._body(headers, receive)
        if body is None:
            return
        status, answer = await handler(headers, body)
        payload = b"" if answer is None else msgspec.json.encode(answer)
        await client.respond(status, [], payload)

    def _handler(self, method: str, path: str) -> Handler | None:
        if path.startswith("/admin/"):
            return self.admin.handler(method, path)
        if method == "GET" and path.startswith("/v1/models/"):
            name = path.removeprefix("/v1/models/")
            return lambda headers, body: self.side.model(headers, name)
        table = {"GET": self._get, "HEAD": self._get, "POST": self._post}.get(method, {})
        return table.get(path)

    async def _document(self, headers: dict[bytes, bytes], body: bytes) -> tuple[int, object]:
        return 200, DOCUMENT


async def _no_websocket(scope: Scope, send: Send) -> None:
    """Lifespan is off; a websocket is refused before it opens."""
    if scope["type"] == "websocket":
        message: Message = {"type": "websocket.close", "code": 1003}
        await send(message)
