"""A run is stopped for what the specification names, with a sentence, and not before."""

import json
import math

import pytest
import torch

from twin.lm.stopping import SETTLED, StopRules, state_entropy


def steps(rules: StopRules, losses: list[float], *, ratio: float = 1.0) -> str | None:
    said = None
    for number, loss in enumerate(losses):
        said = said or rules.good_step(SETTLED + number, 0.5, loss, ratio)
    return said


def test_three_bad_steps_in_a_row_end_it_and_a_good_one_forgives() -> None:
    rules = StopRules()
    assert rules.bad_step() is None
    assert rules.bad_step() is None
    rules.good_step(1, 0.0, 2.0, None)
    assert rules.bad_step() is None
    assert rules.bad_step() is None
    assert "no number" in (rules.bad_step() or "")


def test_a_loss_that_falls_steeply_and_then_slowly_does_not_swing() -> None:
    falling = [5.4 * math.exp(-number / 25) + 2.3 for number in range(300)]
    rules = StopRules()
    assert not [n for n, loss in enumerate(falling) if rules.good_step(n, n / 300, loss, 1.0)]
    assert steps(StopRules(), falling) is None
    risen = [loss + 0.7 * (number // 40 % 2) for number, loss in enumerate(falling)]
    assert "swings by 0." in (steps(StopRules(), risen) or "")


def test_a_falling_loss_does_not_swing_and_a_swinging_one_does() -> None:
    assert steps(StopRules(), [3.0 - 0.02 * n for n in range(150)]) is None
    assert steps(StopRules(), [2.0 + 0.3 * (n % 2) for n in range(150)]) is None
    swinging = [2.0 + 0.8 * (n // 20 % 2) for n in range(150)]
    assert "swings" in (steps(StopRules(), swinging) or "")


@pytest.mark.parametrize(
    ("ratio", "said"), [(0.05, "RWKV learns next"), (20.0, "Mamba learns"), (0.2, ""), (9.0, "")]
)
def test_a_starved_pathway_ends_it(ratio: float, said: str) -> None:
    found = steps(StopRules(), [2.0] * 150, ratio=ratio)
    assert (said in (found or "")) if said else found is None


def test_nothing_is_judged_during_the_warm_up() -> None:
    rules = StopRules(warmup_over=0.2)
    for number in range(300):
        assert rules.good_step(number, 0.1, 2.0 + number % 40 // 20 * 5, 50.0) is None


def test_learning_by_heart_is_warned_of_and_then_stopped() -> None:
    rules = StopRules()
    assert rules.validation(1.50, 1.40, None) is None
    assert rules.validation(1.60, 1.30, None) is None
    assert len(rules.warnings) == 1
    assert "by heart" in (rules.validation(1.66, 1.20, None) or "")


def test_a_validation_that_rises_with_the_training_loss_is_no_learning_by_heart() -> None:
    rules = StopRules()
    rules.validation(1.50, 1.40, None)
    assert rules.validation(1.90, 1.80, None) is None
    assert not rules.warnings


def test_a_state_of_one_direction_ends_it() -> None:
    assert "one direction" in (StopRules().validation(1.5, 1.5, 0.2) or "")
    assert StopRules().validation(1.5, 1.5, 0.5) is None


def test_the_entropy_of_a_state_is_one_for_equal_directions_and_zero_for_one() -> None:
    assert state_entropy([torch.eye(8).expand(2, 3, 8, 8)]) == pytest.approx(1.0, abs=1e-5)
    assert state_entropy([torch.ones(2, 3, 8, 8)]) == pytest.approx(0.0, abs=1e-3)
    assert state_entropy([torch.zeros(2, 3, 8, 8)]) is None
    assert state_entropy([]) is None


def test_rules_remember_over_an_interruption() -> None:
    rules = StopRules()
    steps(rules, [2.0 + 0.01 * n for n in range(120)])
    rules.validation(1.5, 1.4, None)
    rules.bad_step()
    again = StopRules()
    again.restore(json.loads(json.dumps(rules.to_dict())))
    assert again == rules
