"""Each provider as it is configured, against a server that notes what it was sent."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from tests.backends.upstream import RESET, STALL, Received, Step, Upstream, answer, unused_url

from twin.backends.backend import Ask
from twin.backends.factories import PROVIDERS, make_backend, upstream_model
from twin.backends.http import HttpClient, Timeouts
from twin.config import ModelConfig, Provider
from twin.errors import BackendUnreachable, ConfigError
from twin.records import DialectName

LONG = Timeouts(connect_s=20, first_byte_s=20, idle_s=20, deadline_s=20)
SERVED: list[Provider] = ["openai", "together", "vllm", "ollama"]


def asked(
    upstream: Upstream,
    config: Mapping[str, Any],
    dialect: DialectName = "chat",
    *,
    body: bytes = b'{"model": "m"}',
    secret: str | None = None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    root: Path = Path(),
) -> Received:
    """What reached the server of one request through the configured model."""

    async def main() -> None:
        client = HttpClient()
        model = ModelConfig(base_url=upstream.url, **config)
        backend = make_backend("mine", model, client, root)
        request = Ask(dialect=dialect, body=body, stream=False, timeouts=LONG, headers=headers)
        reply = await backend.ask(request, secret)
        await reply.read()
        await backend.close()
        await client.close()

    asyncio.run(main())
    return upstream.requests[-1]


def is_alive(config: ModelConfig, secret: str | None = None) -> bool:
    async def main() -> bool:
        client = HttpClient()
        try:
            return await make_backend("mine", config, client, Path()).is_alive(secret)
        finally:
            await client.close()

    return asyncio.run(main())


def test_every_provider_that_can_be_configured_has_an_entry() -> None:
    assert set(PROVIDERS) == set(get_args(Provider))


@pytest.mark.parametrize(
    "provider", sorted(set(get_args(Provider)) - {"local"})
)  # which needs a model
def test_every_provider_makes_a_backend_from_its_name_alone(provider: Provider) -> None:
    backend = make_backend("mine", ModelConfig(provider=provider), HttpClient(), Path())
    assert backend.dialects == frozenset(PROVIDERS[provider].dialects)


@pytest.mark.parametrize("provider", SERVED)
@pytest.mark.parametrize(
    ("dialect", "path"),
    [("chat", "/v1/chat/completions"), ("completions", "/v1/completions"),
     ("embeddings", "/v1/embeddings")],
)  # fmt: skip
def test_a_request_goes_to_its_endpoint_byte_for_byte(
    provider: Provider, dialect: DialectName, path: str
) -> None:
    body = b'{ "model":"m" ,"odd":1e400,"a":"\\u00e4" }'
    with Upstream(answer()) as upstream:
        request = asked(upstream, {"provider": provider}, dialect, body=body, secret="sk-1")
    assert (request.method, request.target, request.body) == ("POST", path, body)
    assert request.headers["authorization"] == "Bearer sk-1"
    assert request.headers["content-type"] == "application/json"


def test_without_an_account_no_authorization_is_sent() -> None:
    with Upstream(answer()) as upstream:
        assert "authorization" not in asked(upstream, {"provider": "vllm"}).headers


def test_each_secret_goes_out_with_its_own_requests() -> None:
    with Upstream(answer()) as upstream:

        async def main() -> None:
            client = HttpClient()
            model = ModelConfig(provider="openai", base_url=upstream.url)
            backend = make_backend("mine", model, client, Path())
            request = Ask(dialect="chat", body=b"{}", stream=False, timeouts=LONG)
            for secret in ("sk-a", "sk-b", None, "sk-a"):
                await (await backend.ask(request, secret)).read()
            await client.close()

        asyncio.run(main())
    sent = [request.headers.get("authorization") for request in upstream.requests]
    assert sent == ["Bearer sk-a", "Bearer sk-b", None, "Bearer sk-a"]


def test_anthropic_is_asked_as_it_wants_to_be() -> None:
    beta = ((b"anthropic-beta", b"context-1m-2025-08-07"),)
    with Upstream(answer()) as upstream:
        config = {"provider": "anthropic"}
        request = asked(upstream, config, "messages", secret="sk-ant-1", headers=beta)
    assert request.target == "/v1/messages"
    assert request.headers["x-api-key"] == "sk-ant-1"
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert request.headers["anthropic-beta"] == "context-1m-2025-08-07"
    assert "authorization" not in request.headers


def test_configured_headers_stand_instead_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROJECT", "p-1")
    headers = {"openai-project": "env:PROJECT", "User-Agent": "mine", "Authorization": "Basic eA=="}
    with Upstream(answer()) as upstream:
        config = {"provider": "openai", "headers": headers}
        request = asked(upstream, config, secret="sk-1")
    assert request.headers["openai-project"] == "p-1"
    assert request.headers["user-agent"] == "mine"
    assert request.headers["authorization"] == "Basic eA=="

    headers = {"anthropic-version": "2099-01-01"}
    with Upstream(answer()) as upstream:
        request = asked(upstream, {"provider": "anthropic", "headers": headers}, "messages")
    assert request.headers["anthropic-version"] == "2099-01-01"


def test_configured_endpoints_are_what_it_speaks() -> None:
    model = ModelConfig(provider="vllm", endpoints=("chat", "messages"))
    assert make_backend("mine", model, HttpClient(), Path()).dialects == {"chat", "messages"}


def test_the_name_sent_is_the_adapters_where_the_server_goes_by_names() -> None:
    def name(**config: Any) -> str:
        return upstream_model("mine", ModelConfig(**config))

    assert name(provider="vllm") == "mine"
    assert name(provider="vllm", model="qwen") == "qwen"
    assert name(provider="vllm", model="qwen", adapter="coder@v12") == "coder@v12"
    assert name(provider="llama-server", model="qwen", adapter="coder") == "qwen"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"provider": "vllm", "base_url": "localhost:8000/v1"}, "http://"),
        ({"provider": "vllm", "base_url": "http://u:hunter2@a/v1"}, "accounts"),
        ({"provider": "vllm", "headers": {"x a": "1"}}, "name"),
        ({"provider": "vllm", "headers": {"x": "1\r\ny: 2"}}, "line break"),
        ({"provider": "vllm", "headers": {"host": "b"}}, "leave it out"),
        ({"provider": "vllm", "headers": {"x": "env:NOT_SET_ANYWHERE"}}, "NOT_SET_ANYWHERE"),
        ({"provider": "anthropic", "adapter": "coder"}, "adapter"),
        ({"provider": "scripted", "adapter": "coder"}, "adapter"),
        ({"provider": "vllm", "script": "a.jsonl"}, "script"),
        ({"provider": "scripted", "script": "missing.jsonl"}, "missing.jsonl"),
    ],
)
def test_a_model_that_cannot_be_made_is_named_with_its_cure(
    tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^\[models.mine\]: .*{words}") as error:
        make_backend("mine", ModelConfig(**config), HttpClient(), tmp_path)
    assert "hunter2" not in str(error.value)
    assert str(error.value).endswith((".", "`."))


@pytest.mark.parametrize("provider", [*SERVED, "anthropic"])
def test_a_server_that_lists_its_models_is_alive(provider: Provider) -> None:
    with Upstream(answer('{"data": []}')) as upstream:
        assert is_alive(ModelConfig(provider=provider, base_url=upstream.url), "sk-1")
    assert upstream.requests[0].method == "GET"
    assert upstream.requests[0].target == "/v1/models"
    assert "sk-1" in str(upstream.requests[0].headers)


@pytest.mark.parametrize("plan", [answer(status=401), answer(status=503), [RESET]])
def test_a_server_that_does_not_is_not(plan: Step) -> None:
    with Upstream(plan) as upstream:
        assert not is_alive(ModelConfig(provider="vllm", base_url=upstream.url))


def test_nobody_waits_long_for_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    short = Timeouts(connect_s=0.1, first_byte_s=0.1, idle_s=0.1, deadline_s=0.1)
    monkeypatch.setattr("twin.backends.served.LIVENESS", short)
    with Upstream([STALL]) as upstream:
        assert not is_alive(ModelConfig(provider="vllm", base_url=upstream.url))
        upstream.wait_until(lambda up: up.hangups)


def test_a_server_that_is_not_there_is_not_alive_and_unreachable() -> None:
    model = ModelConfig(provider="vllm", base_url=unused_url())
    assert not is_alive(model)

    async def ask() -> None:
        client = HttpClient()
        backend = make_backend("mine", model, client, Path())
        await backend.ask(Ask(dialect="chat", body=b"{}", stream=False, timeouts=LONG), None)

    with pytest.raises(BackendUnreachable):
        asyncio.run(ask())
