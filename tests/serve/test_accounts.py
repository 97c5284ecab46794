"""Which account of a model is asked next, and how long a provider asks us to wait."""

import time
from email.utils import formatdate

import pytest

from twin.config import ModelConfig
from twin.serve.accounts import Account, AccountPool, retry_after_s


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Named:
    """As much of a secret as a pool looks at."""

    def __init__(self, label: str) -> None:
        self.label = label


def pool(count: int, clock: Clock, **limits: int) -> AccountPool:
    model = ModelConfig(provider="vllm", **limits)
    return AccountPool([Named(f"env:A{n}") for n in range(count)], model, clock)  # type: ignore[misc]


def label(picked: Account | float) -> str:
    assert isinstance(picked, Account), f"nothing free for {picked} s"
    return picked.label


def test_a_conversation_stays_on_its_account_and_moves_only_while_that_one_rests() -> None:
    clock = Clock()
    accounts = pool(3, clock)
    assert [label(accounts.pick(7, 1)) for _ in range(3)] == ["env:A1"] * 3
    accounts.accounts[1].rest(30)
    assert label(accounts.pick(7, 1)) == "env:A2"
    clock.now += 30
    assert label(accounts.pick(7, 1)) == "env:A1"


def test_where_all_rest_the_shortest_wait_is_told() -> None:
    clock = Clock()
    accounts = pool(2, clock)
    accounts.accounts[0].rest(30)
    accounts.accounts[1].rest(10)
    assert accounts.pick(0, 1) == pytest.approx(10)


def test_requests_and_tokens_a_minute_are_counted_for_each_account() -> None:
    clock = Clock()
    accounts = pool(2, clock, requests_per_minute=1, tokens_per_minute=1000)
    first = accounts.pick(0, 500)
    assert isinstance(first, Account)
    first.begin(500)
    second = accounts.pick(0, 500)
    assert label(second) == "env:A1"
    assert isinstance(second, Account)
    second.begin(500)
    wait = accounts.pick(0, 500)
    assert isinstance(wait, float)
    assert wait == pytest.approx(60)


def test_a_model_without_accounts_is_asked_without_a_secret() -> None:
    accounts = pool(0, Clock())
    picked = accounts.pick(3, 1)
    assert isinstance(picked, Account)
    assert picked.secret is None
    assert picked.label == ""


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([(b"retry-after", b"7")], 7.0),
        ([(b"retry-after", b"1.5")], 1.5),
        ([(b"retry-after-ms", b"250"), (b"retry-after", b"9")], 0.25),
        ([(b"retry-after", b"-3")], 0.0),
        ([(b"retry-after", b"99999999999")], 86_400.0),
        ([(b"retry-after", b"soon")], None),
        ([(b"retry-after", b"nan")], None),
        ([(b"retry-after", b"\xff")], None),
        ([], None),
    ],
)
def test_retry_after_is_read_in_every_form_and_nonsense_is_ignored(
    headers: list[tuple[bytes, bytes]], seconds: float | None
) -> None:
    assert retry_after_s(headers) == seconds


def test_retry_after_may_be_a_date() -> None:
    later = formatdate(time.time() + 120, usegmt=True).encode()
    found = retry_after_s([(b"retry-after", later)])
    assert found is not None
    assert 100 < found <= 120
