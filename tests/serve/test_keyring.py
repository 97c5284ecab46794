"""Who may ask: keys by their digest, with rates, allowed models and an end."""

import hashlib

import pytest

from twin.records import VirtualKey
from twin.serve.keyring import Keyring
from twin.serve.refusal import Refusal

SECRET = "twin-" + "x" * 43


def key(**more: object) -> VirtualKey:
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    return VirtualKey(key_id="key_1", name="laptop", digest=digest, created_at=0.0, **more)  # type: ignore[arg-type]


def ring(*keys: VirtualKey, now: float = 0.0) -> Keyring:
    made = Keyring(clock=lambda: 0.0, now=lambda: now)
    made.load(keys)
    return made


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": f"Bearer {SECRET}".encode()},
        {b"authorization": f"bearer {SECRET} ".encode()},
        {b"x-api-key": SECRET.encode()},
    ],
)
def test_a_key_is_found_as_either_family_of_clients_sends_it(headers: dict[bytes, bytes]) -> None:
    assert ring(key()).find(headers).key.name == "laptop"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({b"authorization": b"Basic abc"}, "missing_api_key"),
        ({b"x-api-key": b"twin-wrong"}, "invalid_api_key"),
        ({b"x-api-key": b"\xff\xfe"}, "invalid_api_key"),
    ],
)
def test_no_key_or_a_wrong_one_is_refused(headers: dict[bytes, bytes], code: str) -> None:
    with pytest.raises(Refusal) as caught:
        ring(key()).find(headers)
    assert caught.value.status == 401
    assert caught.value.code == code
    assert SECRET not in caught.value.message


def test_a_revoked_key_and_an_expired_one_no_longer_count() -> None:
    headers = {b"x-api-key": SECRET.encode()}
    with pytest.raises(Refusal, match="revoked"):
        ring(key(revoked_at=1.0)).find(headers)
    assert ring(key(expires_at=10.0), now=9.0).find(headers)
    with pytest.raises(Refusal, match="expired"):
        ring(key(expires_at=10.0), now=10.0).find(headers)


def test_a_key_asks_only_the_models_that_it_may() -> None:
    holder = ring(key(models=("small", "claude-*"))).find({b"x-api-key": SECRET.encode()})
    assert holder.may_ask("small")
    assert holder.may_ask("claude-opus")
    assert not holder.may_ask("twin")


def test_its_rates_hold_and_survive_a_reload_of_the_keys() -> None:
    keys = ring(key(requests_per_minute=2, tokens_per_minute=1000))
    headers = {b"x-api-key": SECRET.encode()}
    keys.find(headers).begin(10)
    keys.load([key(requests_per_minute=2, tokens_per_minute=1000)])
    keys.find(headers).begin(10)
    with pytest.raises(Refusal, match="2 requests a minute"):
        keys.find(headers).begin(10)


def test_tokens_of_answers_count_against_the_rate_of_tokens() -> None:
    holder = ring(key(tokens_per_minute=100)).find({b"x-api-key": SECRET.encode()})
    holder.begin(10)
    holder.used(500)
    with pytest.raises(Refusal, match="100 tokens a minute"):
        holder.begin(10)
