"""The numbers of calls."""

import os

import pytest

from twin.serve import exchange
from twin.serve.exchange import new_call_id


def test_the_numbers_of_calls_differ_and_are_in_order_of_time() -> None:
    ids = [new_call_id(1_000.0 + number) for number in range(2_000)]
    assert ids == sorted(ids)
    assert len({call_id[-20:] for call_id in ids}) == 2_000
    assert {len(call_id) for call_id in ids} == {len("call_") + 32}


def test_the_random_digits_are_the_operating_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    # From a seeded generator's numbers the next ones can be told.
    monkeypatch.setattr(os, "urandom", lambda size: bytes(range(10)) * (size // 10))
    monkeypatch.setattr(exchange, "_next_digits", exchange._random_digits().__next__)
    assert {new_call_id()[-20:] for _ in range(2_000)} == {bytes(range(10)).hex()}
