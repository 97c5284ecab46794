"""All models that can be asked: each with its backend, its accounts and its breaker.

Made from the configuration as one piece and exchanged as one piece at a reload; calls under way
keep the one they began with. Chooses nothing: `route` does.
"""

import asyncio
import difflib
import fnmatch
import time
from collections.abc import Iterator
from pathlib import Path

from twin.backends.backend import Backend
from twin.backends.connection import Timeouts
from twin.backends.factories import header_secrets, make_backend, upstream_model
from twin.backends.http import HttpClient
from twin.backends.secrets import Secret, resolve
from twin.config import ROUTED, Config, ModelConfig
from twin.records import DialectName
from twin.serve.accounts import AccountPool
from twin.serve.limits import Breaker, Clock
from twin.serve.refusal import Refusal

SCRIPTED = {"scripted": ModelConfig(provider="scripted", role="triage")}
"""What answers where nothing is configured, so that `twin serve` can be tried at once."""

MAX_NAME = 200

_PREFERRED: tuple[DialectName, ...] = ("chat", "messages")
"""What a request is translated to where the server does not speak the caller's dialect."""


class Member:
    """One configured model."""

    __slots__ = (
        "accounts",
        "backend",
        "breaker",
        "config",
        "credentials",
        "dialects",
        "is_free",
        "name",
        "num_active",
        "timeouts",
        "upstream_model",
    )

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        backend: Backend,
        accounts: AccountPool,
        clock: Clock,
        credentials: tuple[Secret, ...] = (),
    ) -> None:
        self.name = name
        self.config = config
        self.credentials = credentials
        """Of its accounts and headers, as they were read."""
        self.backend = backend
        self.accounts = accounts
        self.breaker = Breaker(clock=clock)
        self.num_active = 0
        self.dialects = backend.dialects
        self.upstream_model = upstream_model(name, config)
        """What the provider calls it."""
        self.is_free = config.price.input == 0 and config.price.output == 0
        self.timeouts = Timeouts(
            connect_s=config.connect_s,
            first_byte_s=config.first_byte_s,
            idle_s=config.idle_s,
            deadline_s=config.deadline_s,
        )

    def dialect_for(self, dialect: DialectName) -> DialectName | None:
        """In which dialect a request of `dialect` goes there; None where it cannot."""
        speaks = self.dialects
        if dialect in speaks:
            return dialect
        if dialect == "embeddings":
            return None
        return next((other for other in _PREFERRED if other in speaks), None)


class Fleet:
    """Every model of one configuration."""

    def __init__(
        self,
        config: Config,
        root: Path,
        client: HttpClient,
        *,
        before: "Fleet | None" = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """A model whose configuration and secrets are the same as in `before` keeps its limits and
        breaker.

        Raises ConfigError where a secret or script that the configuration names is missing.
        """
        self.members: dict[str, Member] = {}
        self.is_scripted = not config.models
        for name, model in (config.models or SCRIPTED).items():
            old = before.members.get(name) if before else None
            secrets = [resolve(reference, root) for reference in model.accounts]
            credentials = (*secrets, *header_secrets(name, model, root))
            if old is not None and old.config == model and _same(old.credentials, credentials):
                self.members[name] = old
                continue
            backend = make_backend(name, model, client, root)
            accounts = AccountPool(secrets, model, clock)
            self.members[name] = Member(name, model, backend, accounts, clock, credentials)
        aliases = config.serve.aliases
        self._exact = {name: name for name in (*self.members, ROUTED)}
        self._exact |= {a: t for a, t in aliases.items() if not _is_glob(a)}
        self._globs = {a: t for a, t in aliases.items() if _is_glob(a)}

    def of_role(self, role: str) -> Iterator[Member]:
        return (member for member in self.members.values() if member.config.role == role)

    @property
    def secrets(self) -> set[str]:
        """All that its models are asked with: for who keeps them out of records."""
        return {each.reveal() for member in self.members.values() for each in member.credentials}

    @property
    def roles(self) -> dict[str, str]:
        return {name: member.config.role for name, member in self.members.items()}

    def resolve(self, asked: str) -> str:
        """The model that a client's name means, or `twin`. Raises Refusal (404) with the nearest
        name."""
        found = self._exact.get(asked)
        if found is not None:
            return found
        if len(asked) > MAX_NAME:  # looking for its like would take seconds
            raise Refusal(404, "model_not_found", "There is no model with so long a name here.")
        for pattern, target in self._globs.items():
            if fnmatch.fnmatchcase(asked, pattern):
                return target
        if not asked:
            raise Refusal(
                400, "invalid_request_error", f"Name a `model`: one of {', '.join(self.names)}."
            )
        near = difflib.get_close_matches(asked, list(self._exact), n=1, cutoff=0.4)
        cure = f"Did you mean `{near[0]}`?" if near else f"There are: {', '.join(self.names)}."
        raise Refusal(404, "model_not_found", f"There is no model `{asked[:200]}` here. {cure}")

    @property
    def names(self) -> list[str]:
        """What clients can ask for: the routed name, the models, the aliases that are no globs."""
        return [ROUTED, *(name for name in self._exact if name != ROUTED)]

    async def close(self) -> None:
        await asyncio.gather(*(member.backend.close() for member in self.members.values()))


def _same(before: tuple[Secret, ...], now: tuple[Secret, ...]) -> bool:
    """A reference stays what it is when the file or variable behind it changes."""
    return [each.reveal() for each in before] == [each.reveal() for each in now]


def _is_glob(alias: str) -> bool:
    return any(mark in alias for mark in "*?[")
