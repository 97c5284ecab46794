"""Virtual keys: made, revoked, never changed; their secrets are nowhere."""

import re
import time

import pytest
from sqlalchemy import text

from twin.errors import UnknownKey, UsageError
from twin.store.database import Store
from twin.store.keys import digest_of


def test_a_secret_is_given_once_and_only_its_digest_is_stored(store: Store) -> None:
    key, secret = store.keys.create("laptop")
    assert re.fullmatch(r"twin-[A-Za-z0-9_-]{43}", secret)
    assert re.fullmatch(r"key_[0-9a-f]{12}", key.key_id)
    assert key.digest == digest_of(secret)
    assert store.keys.all() == [key]
    with store.engine.connect() as connection:
        row = connection.execute(text("SELECT * FROM raw_key")).one()
    assert secret not in str(row)
    assert secret.removeprefix("twin-") not in str(row)


def test_limits_come_back_as_they_were_given(store: Store) -> None:
    key, _ = store.keys.create(
        "agent \x00",
        models=["small", "claude-*"],
        monthly_usd=0.5,
        requests_per_minute=60,
        tokens_per_minute=10_000_000_000,
        expires_at=1.5,
    )
    assert store.keys.all() == [key]
    assert (key.models, key.tokens_per_minute) == (("small", "claude-*"), 10_000_000_000)


def test_expired_and_revoked_keys_are_not_active(store: Store) -> None:
    kept, _ = store.keys.create("kept")
    short, _ = store.keys.create("short", expires_at=time.time() + 100)
    store.keys.create("over", expires_at=time.time() - 1)
    gone, _ = store.keys.create("gone")
    revoked = store.keys.revoke("gone")
    assert revoked.key_id == gone.key_id
    assert revoked.revoked_at is not None
    assert store.keys.active() == [kept, short]
    assert store.keys.active(time.time() + 101) == [kept]
    assert len(store.keys.all()) == 4


def test_a_key_is_revoked_by_name_or_id_and_only_once(store: Store) -> None:
    key, _ = store.keys.create("laptop")
    first = store.keys.revoke(key.key_id)
    assert store.keys.revoke("laptop") == first


def test_a_name_is_free_again_after_its_key_is_revoked(store: Store) -> None:
    first, _ = store.keys.create("laptop")
    with pytest.raises(UsageError, match=r"active key named 'laptop'.*twin keys revoke laptop"):
        store.keys.create("laptop")
    store.keys.revoke("laptop")
    second, _ = store.keys.create("laptop")
    assert store.keys.revoke("laptop").key_id == second.key_id
    assert first.key_id != second.key_id


def test_an_unknown_key_is_named(store: Store) -> None:
    with pytest.raises(UnknownKey, match=r"no key 'nobody'.*`twin keys list`"):
        store.keys.revoke("nobody")
