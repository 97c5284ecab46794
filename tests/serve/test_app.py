"""What the surface keeps of requests while they are under way."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from twin.serve import app as module
from twin.serve.app import MAX_BODIES_AT_ONCE, App

LIMIT = 1_000


class Bench:
    """The application with a gateway that answers when it is told."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.num_answering = 0

        async def answer(dialect: str, body: bytes, headers: object, client: Any) -> None:
            self.num_answering += 1
            await self.go.wait()
            await client.respond(200, [], b"{}")

        async def feedback(headers: object, body: bytes) -> tuple[int, object]:
            await self.go.wait()
            return 201, {}

        serve = SimpleNamespace(max_body_bytes=LIMIT)
        gateway = SimpleNamespace(
            config=SimpleNamespace(serve=serve), requires_keys=False, answer=answer
        )
        anything = SimpleNamespace(
            health=None, ready=None, models=None, feedback=feedback, count_tokens=None
        )
        self.app = App(gateway, anything, anything)  # type: ignore[arg-type]

    async def ask(self, *parts: bytes, path: str = "/v1/chat/completions") -> tuple[int, bytes]:
        """Status and body; the last part is followed by the end of the request."""
        left = [
            {"type": "http.request", "body": part, "more_body": number < len(parts)}
            for number, part in enumerate(parts, 1)
        ]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return left.pop(0) if left else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": path, "headers": []}
        await self.app(scope, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize("parts", [(b"x" * LIMIT,), (b"x" * 400, b"x" * 600)])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/feedback"])
def test_bodies_count_until_they_are_answered_however_they_came(
    parts: tuple[bytes, ...], path: str
) -> None:
    async def main() -> None:
        bench = Bench()
        waiting = [asyncio.create_task(bench.ask(*parts, path=path)) for _ in range(16)]
        await asyncio.sleep(0)
        assert bench.app._num_held_bytes == MAX_BODIES_AT_ONCE * LIMIT
        status, body = await bench.ask(b"x")
        assert (status, json.loads(body)["error"]["code"]) == (503, "overloaded")
        bench.go.set()
        assert {status for status, _ in await asyncio.gather(*waiting)} <= {200, 201}
        assert (await bench.ask(b"x"))[0] == 200
        assert bench.app._num_held_bytes == 0

    asyncio.run(main())


def test_what_is_refused_or_breaks_off_is_let_go() -> None:
    async def main() -> None:
        bench = Bench()
        bench.go.set()
        assert (await bench.ask(b"x" * 600, b"x" * 600))[0] == 413
        assert bench.app._num_held_bytes == 0

    asyncio.run(main())


def test_there_is_a_bound_for_all_where_one_may_be_very_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        monkeypatch.setattr(module, "MAX_HELD_BYTES", 500)
        bench = Bench()
        bench.go.set()
        assert (await bench.ask(b"x" * 501))[0] == 503
        assert (await bench.ask(b"x" * 500))[0] == 200

    asyncio.run(main())
