"""The traps of llama-server's adapters, each with a server that behaves as the real one does."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.backends.upstream import RESET, Received, Step, Upstream, answer, chat

from twin.backends import llama_server
from twin.backends.backend import Ask
from twin.backends.http import HttpClient, Timeouts
from twin.backends.llama_server import LlamaServer, LoadedAdapter, scales_for, with_scales
from twin.errors import BackendBroken, BackendUnreachable
from twin.records import DialectName

LONG = Timeouts(connect_s=20, first_byte_s=20, idle_s=20, deadline_s=20)
LOADED = [
    {"id": 0, "path": "/models/coder-v1.gguf", "scale": 1.0, "task_name": "", "prompt_prefix": ""},
    {"id": 1, "path": "/models/writer.gguf", "scale": 1.0, "task_name": "", "prompt_prefix": ""},
]


def holding(*lists: Sequence[object]) -> Any:
    """A server that holds these adapters; the last list for good."""
    told = list(lists)

    def step(request: Received) -> Step:
        if request.target == "/lora-adapters":
            return answer(json.dumps(told.pop(0) if len(told) > 1 else told[0]))
        return chat("Hello.")

    return step


def ask(
    upstream: Upstream,
    adapter: str,
    times: int = 1,
    dialect: DialectName = "chat",
    body: bytes = b'{"model": "m", "messages": []}',
) -> list[Any]:
    """What each request said about adapters."""

    async def main() -> None:
        client = HttpClient()
        backend = LlamaServer(
            client=client,
            base_url=upstream.url,
            dialects=("chat", "completions", "embeddings"),
            adapter=adapter,
        )
        request = Ask(dialect=dialect, body=body, stream=False, timeouts=LONG)
        try:
            for _ in range(times):
                await (await backend.ask(request, "sk-1")).read()
        finally:
            await client.close()

    asyncio.run(main())
    return [each.json.get("lora") for each in upstream.requests if each.method == "POST"]


@pytest.mark.parametrize(
    "adapter", ["writer", "writer.gguf", "/models/writer.gguf", "1"]
)  # fmt: skip
def test_each_request_switches_one_adapter_on_and_all_others_off(adapter: str) -> None:
    with Upstream(holding(LOADED)) as upstream:
        sent = ask(upstream, adapter, times=3)
    assert sent == [[{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]] * 3


def test_the_base_model_is_asked_with_all_adapters_off() -> None:
    """Without the list all that the server holds would apply, added up."""
    with Upstream(holding(LOADED)) as upstream:
        assert ask(upstream, "") == [[{"id": 0, "scale": 0.0}, {"id": 1, "scale": 0.0}]]


def test_a_server_without_adapters_is_sent_the_request_as_it_is() -> None:
    body = b' {"model" : "m"} '
    with Upstream(holding([])) as upstream:
        ask(upstream, "", body=body)
    assert upstream.requests[-1].body == body


def test_a_server_too_old_for_adapters_serves_its_base_model() -> None:
    def old(request: Received) -> Step:
        return answer(status=404) if request.method == "GET" else chat("Hello.")

    with Upstream(old) as upstream:
        assert ask(upstream, "") == [None]
    with Upstream(old) as upstream, pytest.raises(BackendUnreachable, match="404"):
        ask(upstream, "writer")


@pytest.mark.parametrize("adapter", ["editor", "7", "coder", "-1"])
def test_an_adapter_that_the_server_does_not_hold_is_an_error(adapter: str) -> None:
    """The server itself would let the base model answer, with status 200."""
    with (
        Upstream(holding(LOADED)) as upstream,
        pytest.raises(BackendUnreachable, match=r"holds: /models/coder-v1.gguf, .*--lora"),
    ):
        ask(upstream, adapter)
    assert all(request.method == "GET" for request in upstream.requests)


def test_two_adapters_of_one_name_are_an_error() -> None:
    twice = [LoadedAdapter(0, "/a/coder.gguf"), LoadedAdapter(1, "/b/coder.gguf")]
    with pytest.raises(BackendUnreachable, match="several"):
        scales_for("coder", twice)
    assert json.loads(scales_for("/b/coder.gguf", twice))[1] == {"id": 1, "scale": 1.0}


def test_the_list_is_asked_for_once_and_then_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    with Upstream(holding(LOADED)) as upstream:
        ask(upstream, "writer", times=20)
        assert sum(request.method == "GET" for request in upstream.requests) < 20
    monkeypatch.setattr(llama_server, "FRESH_S", 0.0)
    swapped = [{**LOADED[0], "id": 1}, {**LOADED[1], "id": 0}]
    with Upstream(holding(LOADED, swapped)) as upstream:
        sent = ask(upstream, "writer", times=2)
    on = [[each["id"] for each in scales if each["scale"]] for scales in sent]
    assert on == [[1], [0]]


def test_the_list_is_asked_for_again_after_a_fault() -> None:
    """A server that went down can come back with other numbers."""
    turn = iter([answer(json.dumps(LOADED)), [RESET], answer(json.dumps([])), chat("Hello.")])

    async def main(upstream: Upstream) -> None:
        client = HttpClient()
        backend = LlamaServer(
            client=client, base_url=upstream.url, dialects=("chat",), adapter="writer"
        )
        request = Ask(dialect="chat", body=b'{"model": "m"}', stream=False, timeouts=LONG)
        with pytest.raises((BackendBroken, BackendUnreachable)):
            await backend.ask(request, None)
        with pytest.raises(BackendUnreachable, match="holds: none"):
            await backend.ask(request, None)
        await client.close()

    # The connection is fresh each time, so that the reset is not taken for a late goodbye.
    with Upstream(lambda _: next(turn), is_closing=True) as upstream:
        asyncio.run(main(upstream))


def test_a_list_in_an_unknown_shape_is_an_error() -> None:
    with (
        Upstream(answer('{"adapters": {}}')) as upstream,
        pytest.raises(BackendBroken, match="unknown shape"),
    ):
        ask(upstream, "writer")


def test_embeddings_are_sent_as_they_are() -> None:
    body = b'{"model": "m", "input": "x"}'
    with Upstream(holding(LOADED)) as upstream:
        ask(upstream, "writer", dialect="embeddings", body=body)
    assert [request.body for request in upstream.requests] == [body]


def test_the_secret_is_sent_with_the_question_for_the_list_too() -> None:
    with Upstream(holding(LOADED)) as upstream:
        ask(upstream, "writer")
    assert {request.headers["authorization"] for request in upstream.requests} == {"Bearer sk-1"}


def test_a_callers_own_list_has_no_effect() -> None:
    body = b'{"model": "m", "lora": [{"id": 0, "scale": 1.0}], "\\u006cora": []}'
    with Upstream(holding(LOADED)) as upstream:
        sent = ask(upstream, "writer", body=body)
    assert sent == [[{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]]


def test_it_is_alive_only_with_its_adapter() -> None:
    def plan(request: Received) -> Step:
        return answer(json.dumps(LOADED)) if request.target == "/lora-adapters" else answer()

    async def main(base_url: str, adapter: str) -> bool:
        client = HttpClient()
        backend = LlamaServer(client=client, base_url=base_url, dialects=("chat",), adapter=adapter)
        alive = await backend.is_alive()
        await client.close()
        return alive

    with Upstream(plan) as upstream:
        assert asyncio.run(main(upstream.url, "writer"))
        assert not asyncio.run(main(upstream.url, "editor"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=6) | st.just("lora"), json_values), st.integers(0, 3))
def test_the_list_is_added_to_any_object_and_changes_nothing_else(
    body: dict[str, Any], indent: int
) -> None:
    text = json.dumps(body, indent=indent or None).encode() + b" \n" * indent
    assert json.loads(with_scales(text, b'[{"id": 0}]')) == {**body, "lora": [{"id": 0}]}
