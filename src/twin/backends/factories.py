"""Every provider there is, and how a configured model becomes a backend.

Owns the usual addresses, what each provider speaks, and what becomes of `adapter`. A further
provider is an entry here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from twin.backends.backend import Backend
from twin.backends.http import HttpClient
from twin.backends.llama_server import LlamaServer
from twin.backends.local import LocalBackend
from twin.backends.script import load_script
from twin.backends.scripted import ScriptedBackend
from twin.backends.secrets import Secret, is_reference, resolve, resolve_header
from twin.backends.served import ServedBackend, anthropic_key
from twin.config import ModelConfig, Provider
from twin.errors import ConfigError
from twin.records import DialectName

ANTHROPIC_VERSION = b"2023-06-01"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A configured model with all that its provider leaves open filled in."""

    client: HttpClient
    base_url: str
    dialects: frozenset[DialectName]
    headers: tuple[tuple[bytes, bytes], ...]
    adapter: str
    script: Path | None
    model: str
    root: Path
    """Where relative paths and the repository's own models are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderFacts:
    """What is known of a provider before anyone configures it."""

    make: Callable[[Wish], Backend]
    dialects: tuple[DialectName, ...]
    base_url: str = ""
    adapter: Literal["as model", "per request", "unknown"] = "as model"
    """How it is told which adapter answers: by the model's name, in each request, or not at all."""


def _served(wish: Wish) -> Backend:
    return ServedBackend(
        client=wish.client, base_url=wish.base_url, dialects=wish.dialects, headers=wish.headers
    )


def _anthropic(wish: Wish) -> Backend:
    configured = {name.lower() for name, _ in wish.headers}
    version = ((b"anthropic-version", ANTHROPIC_VERSION),)
    return ServedBackend(
        client=wish.client,
        base_url=wish.base_url,
        dialects=wish.dialects,
        headers=wish.headers if b"anthropic-version" in configured else version + wish.headers,
        authorization=anthropic_key,
    )


def _llama_server(wish: Wish) -> Backend:
    return LlamaServer(
        client=wish.client,
        base_url=wish.base_url,
        dialects=wish.dialects,
        headers=wish.headers,
        adapter=wish.adapter,
    )


def _scripted(wish: Wish) -> Backend:
    entries = load_script(wish.script) if wish.script is not None else ()
    return ScriptedBackend(entries, dialects=wish.dialects)


def _local(wish: Wish) -> Backend:
    return LocalBackend(wish.model, wish.root, wish.dialects)


PROVIDERS: dict[Provider, ProviderFacts] = {
    "openai": ProviderFacts(
        make=_served,
        base_url="https://api.openai.com/v1",
        dialects=("chat", "completions", "embeddings", "responses"),
    ),
    "together": ProviderFacts(
        make=_served,
        base_url="https://api.together.ai/v1",
        dialects=("chat", "completions", "embeddings"),
    ),
    "vllm": ProviderFacts(
        make=_served,
        base_url="http://127.0.0.1:8000/v1",
        dialects=("chat", "completions", "embeddings", "responses"),
    ),
    "llama-server": ProviderFacts(
        make=_llama_server,
        base_url="http://127.0.0.1:8080/v1",
        dialects=("chat", "completions", "embeddings"),
        adapter="per request",
    ),
    "ollama": ProviderFacts(
        make=_served,
        base_url="http://127.0.0.1:11434/v1",
        dialects=("chat", "completions", "embeddings", "responses"),
    ),
    "anthropic": ProviderFacts(
        make=_anthropic,
        base_url="https://api.anthropic.com/v1",
        dialects=("messages",),
        adapter="unknown",
    ),
    "local": ProviderFacts(
        make=_local,
        dialects=("chat", "completions"),
        adapter="unknown",
    ),
    "scripted": ProviderFacts(
        make=_scripted,
        dialects=("chat", "completions", "embeddings", "responses", "messages"),
        adapter="unknown",
    ),
}


def make_backend(name: str, model: ModelConfig, client: HttpClient, root: Path) -> Backend:
    """The backend of `[models.NAME]`. Opens no connection; reads header secrets and the script.

    Raises ConfigError with the model's name and a cure.
    """
    facts = PROVIDERS[model.provider]
    if model.adapter and facts.adapter == "unknown":
        raise ConfigError(
            f"[models.{name}]: `{model.provider}` knows no adapters. Leave out `adapter`."
        )
    if model.script and model.provider != "scripted":
        raise ConfigError(
            f"[models.{name}]: `script` is only for `scripted`. Leave it out, or change `provider`."
        )
    try:
        return facts.make(
            Wish(
                client=client,
                base_url=model.base_url or facts.base_url,
                dialects=frozenset(model.endpoints or facts.dialects),
                headers=_headers(model, root),
                adapter=model.adapter,
                script=root / model.script if model.script else None,
                model=upstream_model(name, model),
                root=root,
            )
        )
    except ValueError as error:
        raise ConfigError(f"[models.{name}]: {error}. Correct the value.") from error
    except ConfigError as error:
        raise ConfigError(f"[models.{name}]: {error}") from error


def header_secrets(name: str, model: ModelConfig, root: Path) -> list[Secret]:
    """What its headers refer to. Raises ConfigError with the model's name and a cure."""
    try:
        return [resolve(value, root) for value in model.headers.values() if is_reference(value)]
    except ConfigError as error:
        raise ConfigError(f"[models.{name}]: {error}") from error


def upstream_model(name: str, model: ModelConfig) -> str:
    """The name to put into a request's `model`."""
    if model.adapter and PROVIDERS[model.provider].adapter == "as model":
        return model.adapter
    return model.model or name


def _headers(model: ModelConfig, root: Path) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(
        (name.encode("utf-8"), resolve_header(value, root).encode("utf-8"))
        for name, value in model.headers.items()
    )
