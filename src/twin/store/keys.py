"""Virtual keys: who may ask this gateway, and within which limits.

Owns their secrets, of which only a digest is ever stored. Both tables only grow: a key is never
changed, only revoked. Limits are enforced by `serve`, which keeps the active keys in memory.
"""

import hashlib
import secrets
import time
from collections.abc import Sequence

from sqlalchemy import Row, Select, insert, select

from twin.errors import UnknownKey, UsageError
from twin.records import VirtualKey
from twin.store.engine import Database
from twin.store.schema import raw_key, raw_key_end

PREFIX = "twin-"


class KeyRing:
    """Every key that was given out."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        *,
        models: Sequence[str] = (),
        monthly_usd: float | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        expires_at: float | None = None,
    ) -> tuple[VirtualKey, str]:
        """Makes a key; gives it and its secret, which nobody can ever see again.

        Raises UsageError where an active key has that name.
        """
        secret = PREFIX + secrets.token_urlsafe(32)
        key = VirtualKey(
            key_id=f"key_{secrets.token_hex(6)}",
            name=name,
            digest=digest_of(secret),
            created_at=time.time(),
            expires_at=expires_at,
            models=tuple(models),
            monthly_usd=monthly_usd,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        )
        with self._database.writing() as connection:
            self._database.one_at_a_time(connection, "keys")
            others = connection.execute(_keys().where(raw_key.c.name == name)).all()
            if any(_is_active(_key(row), key.created_at) for row in others):
                raise UsageError(
                    f"There is an active key named {name!r} already. Choose another name, or "
                    f"revoke it first: twin keys revoke {name}"
                )
            connection.execute(
                insert(raw_key).values(
                    key_id=key.key_id,
                    name=key.name,
                    digest=key.digest,
                    models=key.models,
                    monthly_usd=key.monthly_usd,
                    requests_per_minute=key.requests_per_minute,
                    tokens_per_minute=key.tokens_per_minute,
                    expires_at=key.expires_at,
                    at=key.created_at,
                )
            )
        return key, secret

    def revoke(self, key: str) -> VirtualKey:
        """Ends a key, given by its id or its name; one that was revoked before stays so.

        Raises UnknownKey.
        """
        with self._database.writing() as connection:
            wanted = (raw_key.c.key_id == key) | (raw_key.c.name == key)
            rows = connection.execute(_keys().where(wanted).order_by(raw_key.c.id)).all()
            if not rows:
                raise UnknownKey(
                    f"There is no key {key!r}. `twin keys list` shows the ones there are."
                )
            # Of keys with one name only the newest can still be in force.
            found = next((row for row in rows if row.key_id == key), rows[-1])
            connection.execute(
                self._database.insert_new(raw_key_end), {"key_id": found.key_id, "at": time.time()}
            )
            ended = connection.execute(_keys().where(raw_key.c.key_id == found.key_id)).one()
        return _key(ended)

    def all(self) -> list[VirtualKey]:
        """The oldest first, also those that are over."""
        with self._database.reading() as connection:
            return [_key(row) for row in connection.execute(_keys().order_by(raw_key.c.id))]

    def active(self, now: float | None = None) -> list[VirtualKey]:
        """Those that let somebody in at this moment."""
        moment = time.time() if now is None else now
        return [key for key in self.all() if _is_active(key, moment)]


def digest_of(secret: str) -> str:
    """What is stored of a secret, and looked up."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _is_active(key: VirtualKey, now: float) -> bool:
    return key.revoked_at is None and (key.expires_at is None or now < key.expires_at)


def _keys() -> "Select[tuple[object, ...]]":
    ended = raw_key_end.c.at.label("revoked_at")
    return select(*raw_key.columns, ended).outerjoin(
        raw_key_end, raw_key_end.c.key_id == raw_key.c.key_id
    )


def _key(row: "Row[tuple[object, ...]]") -> VirtualKey:
    return VirtualKey(
        key_id=row.key_id,
        name=row.name,
        digest=row.digest,
        created_at=row.at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        models=tuple(row.models),
        monthly_usd=row.monthly_usd,
        requests_per_minute=row.requests_per_minute,
        tokens_per_minute=row.tokens_per_minute,
    )
