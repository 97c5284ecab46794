"""Budgets: counted by month, model, role and key, reserved before and settled after."""

from datetime import UTC, datetime

import pytest

from twin.config import BudgetConfig, ModelConfig, Price
from twin.records import Spend, Usage, VirtualKey
from twin.serve.ledger import USUAL_ANSWER, Ledger, cost_usd, expected_usd
from twin.serve.refusal import Refusal

PRICED = ModelConfig(provider="openai", role="reasoning", price=Price(input=1.0, output=2.0))
FREE = ModelConfig(provider="ollama", role="triage")


class Now:
    def __init__(self, text: str) -> None:
        self.at = datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.at


def spend(month: str, model: str, cost: float, key: str = "") -> Spend:
    return Spend(
        month=month, key_id=key, model=model, num_calls=1, num_prompt_tokens=0,
        num_completion_tokens=0, cost_usd=cost,
    )  # fmt: skip


def test_cost_counts_cached_tokens_at_their_own_price() -> None:
    usage = Usage(num_prompt_tokens=1_000_000, num_cached_tokens=400_000, num_completion_tokens=0)
    assert cost_usd(PRICED, usage) == pytest.approx(1.0)
    cached = ModelConfig(provider="openai", price=Price(input=1.0, output=2.0, cached=0.1))
    assert cost_usd(cached, usage) == pytest.approx(0.64)


def test_a_model_over_its_budget_is_named_and_another_is_not() -> None:
    ledger = Ledger(BudgetConfig(reasoning=5.0), Now("2026-11-21"))
    ledger.begin_with([spend("2026-11", "big", 4.99), spend("2026-10", "big", 100)],
                      {"big": "reasoning"})  # fmt: skip
    assert ledger.why_not("big", PRICED, 0.005) == ""
    assert "budget of reasoning models (5 USD)" in ledger.why_not("big", PRICED, 0.02)
    assert ledger.why_not("small", FREE, 0.0) == ""


def test_many_at_once_cannot_overrun_a_budget_together() -> None:
    ledger = Ledger(BudgetConfig(total=1.0), Now("2026-11-21"))
    for _ in range(10):
        assert ledger.why_not("big", PRICED, 0.1) == ""
        ledger.reserve("big", PRICED, "", 0.1)
    assert "all models" in ledger.why_not("big", PRICED, 0.1)


def test_the_real_cost_takes_the_reservations_place() -> None:
    ledger = Ledger(BudgetConfig(), Now("2026-11-21"))
    reserved = ledger.reserve("big", PRICED, "key_1", 0.5)
    ledger.settle(reserved, 0.02)
    assert ledger.total == pytest.approx(0.02)
    assert ledger.by_key == {"key_1": pytest.approx(0.02)}
    assert ledger.by_role == {"reasoning": pytest.approx(0.02)}


def test_a_new_month_begins_anew_and_a_late_answer_belongs_to_the_old_one() -> None:
    now = Now("2026-11-30T23:59:59")
    ledger = Ledger(BudgetConfig(total=1.0), now)
    reserved = ledger.reserve("big", PRICED, "", 1.0)
    now.at += 2
    assert ledger.month == "2026-12"
    ledger.settle(reserved, 3.0)
    assert ledger.total == 0.0


def test_a_clock_that_steps_back_over_the_month_gives_no_second_budget() -> None:
    now = Now("2026-12-01T00:00:01")
    ledger = Ledger(BudgetConfig(total=1.0), now)
    ledger.reserve("big", PRICED, "", 1.0)
    now.at -= 3600
    assert ledger.why_not("big", PRICED, 0.1)
    now.at += 3600
    assert ledger.why_not("big", PRICED, 0.1)


def test_a_key_over_its_budget_is_refused_until_the_month_ends() -> None:
    now = Now("2026-11-30T23:00:00")
    ledger = Ledger(BudgetConfig(), now)
    key = VirtualKey(key_id="key_1", name="ci", digest="", created_at=0, monthly_usd=0.1)
    ledger.check_key(key, 0.05)
    ledger.reserve("big", PRICED, "key_1", 0.1)
    with pytest.raises(Refusal) as caught:
        ledger.check_key(key, 0.05)
    assert caught.value.status == 429
    assert caught.value.headers() == [(b"retry-after", b"3600")]


OUTPUT_ONLY = ModelConfig(
    provider="openai", role="reasoning", price=Price(input=0.0, output=2.0), monthly_usd=0.0
)


def test_a_priced_model_is_over_a_limit_that_is_reached_however_little_is_expected() -> None:
    ledger = Ledger(BudgetConfig(), Now("2026-11-21"))
    assert "`big` (0 USD)" in ledger.why_not("big", OUTPUT_ONLY, 0.0)
    ledger = Ledger(BudgetConfig(total=1.0), Now("2026-11-21"))
    assert ledger.why_not("big", PRICED, 0.0) == ""
    ledger.reserve("big", PRICED, "", 1.0)
    assert "all models" in ledger.why_not("big", PRICED, 0.0)
    assert ledger.why_not("small", FREE, 0.0) == "", "what costs nothing may go on"


def test_an_answer_without_a_bound_is_expected_to_cost_something() -> None:
    assert expected_usd(OUTPUT_ONLY, 100, None) == pytest.approx(2e-6 * USUAL_ANSWER)
    assert expected_usd(PRICED, 100, None) == pytest.approx(1e-6 * 100 + 2e-6 * USUAL_ANSWER)
    assert expected_usd(PRICED, 100, 10) == pytest.approx(1e-6 * 100 + 2e-6 * 10)
    assert expected_usd(FREE, 100, None) == 0.0
