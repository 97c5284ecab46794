"""The admin API, on its own key: keys, spending, state, reload.

Off unless `serve.admin_key` is set. Reads and writes the store in threads, never in the event loop.
"""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import msgspec

from twin.backends.secrets import Secret
from twin.config import ROUTED, Count
from twin.errors import TwinError, UnknownKey, UsageError
from twin.records import VirtualKey
from twin.serve.gateway import Gateway
from twin.serve.keyring import secret_in
from twin.serve.refusal import Refusal
from twin.store.database import Store

Answer = tuple[int, object]
Handler = Callable[[dict[bytes, bytes], bytes], Awaitable[Answer]]


# No control characters: names are shown in tables and logs.
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
_Positive = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class _NewKey(msgspec.Struct, forbid_unknown_fields=True):
    name: _Name
    models: Annotated[list[_Name], msgspec.Meta(max_length=1_000)] = []
    monthly_usd: _Positive | None = None
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    expires_at: _Positive | None = None


class Admin:
    """What an operator may do while the gateway runs."""

    def __init__(
        self,
        gateway: Gateway,
        store: Callable[[], Store],
        reload: Callable[[], Awaitable[None]],
        secret: Secret | None,
        root: Path,
    ) -> None:
        """`store` opens or gives the store; it is called in a thread."""
        self.gateway = gateway
        self.secret = secret
        self._store = store
        self._reload = reload
        self._root = root

    def handler(self, method: str, path: str) -> Handler | None:
        """What answers there; None for no such place."""
        table: dict[tuple[str, str], Handler] = {
            ("GET", "/admin/status"): self._status,
            ("POST", "/admin/reload"): self._reloaded,
            ("GET", "/admin/keys"): self._keys,
            ("POST", "/admin/keys"): self._create,
            ("GET", "/admin/spend"): self._spend,
        }
        found = table.get((method, path))
        if method == "DELETE" and path.startswith("/admin/keys/"):
            key_id = path.removeprefix("/admin/keys/")
            found = lambda headers, body: self._revoke(key_id)  # noqa: E731 - one of a table
        return self._guarded(found) if found else None

    def is_admin(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a request brings the admin key."""
        return self.secret is not None and hmac.compare_digest(
            secret_in(headers), self.secret.reveal().encode()
        )

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(headers: dict[bytes, bytes], body: bytes) -> Answer:
            if self.secret is None:
                raise Refusal(
                    404, "not_found", "The admin API is off. Set `serve.admin_key` to use it."
                )
            if not self.is_admin(headers):
                raise Refusal(
                    401, "invalid_api_key", "Send the admin key as `Authorization: Bearer ...`."
                )
            try:
                return await handler(headers, body)
            except UnknownKey as error:
                raise Refusal(404, "not_found", str(error)) from error
            except UsageError as error:
                raise Refusal(409, "conflict", str(error)) from error
            except TwinError as error:
                raise Refusal(503, "store_failed", str(error), retry_after_s=5.0) from error

        return guarded

    async def _status(self, headers: dict[bytes, bytes], body: bytes) -> Answer:
        gateway = self.gateway
        models = {
            name: {
                "role": member.config.role,
                "provider": member.config.provider,
                "breaker": member.breaker.state,
                "active": member.num_active,
                "accounts": [
                    {"account": account.label, "free_in_s": round(account.wait_s(0), 1)}
                    for account in member.accounts.accounts
                ],
                "month_usd": round(gateway.ledger.by_model.get(name, 0.0), 6),
            }
            for name, member in gateway.fleet.members.items()
        }
        return 200, {
            "routed_name": ROUTED,
            "models": models,
            "active": gateway.admission.num_active,
            "waiting": gateway.admission.num_waiting,
            "recorded": gateway.scribe.num_written,
            "unrecorded": gateway.scribe.num_lost,
            "redacted": gateway.scribe.redactor.num_redacted,
        }

    async def _reloaded(self, headers: dict[bytes, bytes], body: bytes) -> Answer:
        try:
            await self._reload()
        except TwinError as error:
            raise Refusal(400, "invalid_configuration", str(error)) from error
        return 200, {"reloaded": True, "models": list(self.gateway.fleet.members)}

    async def _keys(self, headers: dict[bytes, bytes], body: bytes) -> Answer:
        keys = await asyncio.to_thread(lambda: self._store().keys.all())
        return 200, {"keys": [_shown(key) for key in keys]}

    async def _create(self, headers: dict[bytes, bytes], body: bytes) -> Answer:
        try:
            wanted = msgspec.json.decode(body, type=_NewKey)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refusal(400, "invalid_request_error", f"{error}. See /openapi.json.") from error
        key, secret = await asyncio.to_thread(
            lambda: self._store().keys.create(
                wanted.name,
                models=tuple(wanted.models),
                monthly_usd=wanted.monthly_usd,
                requests_per_minute=wanted.requests_per_minute,
                tokens_per_minute=wanted.tokens_per_minute,
                expires_at=wanted.expires_at,
            )
        )
        await self.refresh_keys()
        return 201, {**_shown(key), "secret": secret}

    async def _revoke(self, key_id: str) -> Answer:
        await asyncio.to_thread(lambda: self._store().keys.revoke(key_id))
        await self.refresh_keys()
        return 200, {"key_id": key_id, "revoked_at": time.time()}

    async def _spend(self, headers: dict[bytes, bytes], body: bytes) -> Answer:
        ledger = self.gateway.ledger
        return 200, {
            "month": ledger.month,
            "total_usd": ledger.total,
            "by_model": ledger.by_model,
            "by_role": ledger.by_role,
            "by_key": ledger.by_key,
        }

    async def refresh_keys(self) -> None:
        """Takes over the keys that the store holds now."""
        keys = await asyncio.to_thread(lambda: self._store().keys.all())
        self.gateway.keyring.load(keys)


def _shown(key: VirtualKey) -> dict[str, object]:
    shown: dict[str, object] = msgspec.to_builtins(key)
    shown.pop("digest")
    return shown
