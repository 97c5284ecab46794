"""A wall clock that leaps gives nobody a second budget, opens no door and loses no record.

Rates, breakers and rests go by a clock that never leaps; here are the places where dates count.
"""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from twin.config import BudgetConfig, ModelConfig, Price
from twin.records import Call, VirtualKey
from twin.serve.accounts import AccountPool, retry_after_s
from twin.serve.keyring import Keyring
from twin.serve.ledger import Ledger
from twin.serve.limits import Breaker, TokenBucket
from twin.serve.refusal import Refusal
from twin.store.database import journal_folder, open_store
from twin.store.keys import digest_of
from twin.store.recorder import Recorder, Settings

DAY_S = 86_400.0
NOW = datetime(2026, 11, 30, 23, 0, tzinfo=UTC).timestamp()
PAID = ModelConfig(provider="openai", role="reasoning", price=Price(input=1.0))


class Wall:
    """A wall clock that can be set."""

    def __init__(self, at: float = NOW) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def test_a_month_that_a_leaping_clock_left_goes_on_where_it_was() -> None:
    wall = Wall()
    ledger = Ledger(BudgetConfig(total=10.0), wall)
    ledger.settle(ledger.reserve("m", PAID, "key_a", 9.0), 9.5)
    assert ledger.why_not("m", PAID, 1.0)
    for leap in (400 * DAY_S, -400 * DAY_S, 70 * 365 * DAY_S):
        wall.at = NOW + leap
        assert ledger.why_not("m", PAID, 1.0) == "", "another month"
        ledger.settle(ledger.reserve("m", PAID, "key_a", 0.5), 0.5)
        wall.at = NOW
        assert ledger.month == "2026-11"
        assert ledger.total == 9.5
        assert ledger.by_key == {"key_a": 9.5}
        assert ledger.why_not("m", PAID, 1.0)


def test_the_months_follow_one_another_and_each_begins_anew() -> None:
    wall = Wall()
    ledger = Ledger(BudgetConfig(total=10.0), wall)
    months = []
    for _ in range(15):
        assert ledger.why_not("m", PAID, 1.0) == ""
        ledger.settle(ledger.reserve("m", PAID, "", 9.5), 9.5)
        assert ledger.why_not("m", PAID, 1.0)
        months.append(ledger.month)
        wall.at += 31 * DAY_S
    assert months[:3] == ["2026-11", "2026-12", "2027-01"]
    assert len(set(months)) == len(months)


def test_a_call_that_is_under_way_while_the_clock_leaps_is_settled_in_its_own_month() -> None:
    wall = Wall()
    ledger = Ledger(BudgetConfig(), wall)
    reserved = ledger.reserve("m", PAID, "", 3.0)
    wall.at += 40 * DAY_S
    ledger.settle(reserved, 1.0)
    assert ledger.total == 0.0
    wall.at = NOW
    assert ledger.month == "2026-11"
    assert ledger.total == 3.0, "what was reserved stands: never less than was spent"


def test_a_key_lives_by_the_date_of_each_moment() -> None:
    wall = Wall()
    ring = Keyring(now=wall)
    key = VirtualKey(key_id="key_1", name="k", digest=digest_of("twin-a"), created_at=NOW,
                     expires_at=NOW + DAY_S)  # fmt: skip
    ring.load([key])
    headers = {b"authorization": b"Bearer twin-a"}
    for leap, is_valid in ((0, True), (-400 * DAY_S, True), (2 * DAY_S, False), (0, True)):
        wall.at = NOW + leap
        if is_valid:
            assert ring.find(headers).key == key
        else:
            with pytest.raises(Refusal, match="expired"):
                ring.find(headers)


def test_a_key_made_in_the_future_is_a_key() -> None:
    ring = Keyring(now=lambda: NOW)
    ring.load([VirtualKey(key_id="k", name="k", digest=digest_of("twin-a"), created_at=NOW * 2)])
    assert ring.find({b"x-api-key": b"twin-a"})


@pytest.mark.parametrize(
    ("days", "allowed"),
    [(-400, (0, 0)), (0, (0, 0)), (0.5, (43_000, 43_200)), (400, (86_400,) * 2)],
)
def test_a_provider_whose_clock_is_elsewhere_is_never_waited_for_longer_than_a_day(
    days: float, allowed: tuple[float, float]
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(days=days), usegmt=True)
    wait = retry_after_s([(b"retry-after", date.encode())])
    assert wait is not None
    assert allowed[0] <= wait <= allowed[1]


def test_rates_breakers_and_rests_do_not_look_at_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    steady = Wall(100.0)
    bucket, breaker = TokenBucket(60, steady), Breaker(threshold=1, clock=steady)
    pool = AccountPool([], ModelConfig(provider="openai", requests_per_minute=1), steady)
    bucket.take(60)
    breaker.begin()
    breaker.failed()
    pool.accounts[0].rest(30.0)
    for leap in (-400 * DAY_S, 400 * DAY_S):
        monkeypatch.setattr(time, "time", lambda leap=leap: NOW + leap)
        assert bucket.wait_s(1) == pytest.approx(1.0)
        assert breaker.state == "open"
        assert pool.pick(0, 1) == pytest.approx(30.0)
    steady.at += 60.0
    assert bucket.wait_s(1) == 0.0
    assert breaker.state == "half-open"


def test_a_clock_that_leaps_ahead_for_a_moment_removes_no_records(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.calls.add([
            Call(call_id="call_1", at=time.time() - 5 * DAY_S, dialect="chat", outcome="ok",
                 asked_model="m")
        ])  # fmt: skip
        journal_folder(tmp_path).mkdir(parents=True)
        ahead = Wall(1_000.0)
        # To a clock that is right, the call is old enough: what stands for the leap is `ahead`.
        recorder = Recorder(Settings(root=str(tmp_path), max_age_days=1), ahead)
        ahead.at += 2 * DAY_S
        recorder._retention_at = 0.0
        recorder.step()
        recorder.step()
        assert [call.call_id for call in store.calls.search()] == ["call_1"]
        recorder._retention_at = 0.0  # an hour later, and the clock still says so
        recorder.step()
        assert store.calls.search() == []
        recorder.close()
