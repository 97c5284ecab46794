"""From opinions to probabilities that hold."""

import numpy as np
import pytest

from twin.gate.routing import calibration_error
from twin.train.calibrate import MIN_BLOCK, MIN_ISOTONIC, fit_calibration, fit_logistic, isotonic


def opinions_of(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """(three opinions, outcomes, true probabilities); the third opinion knows nothing."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.05, 0.95, count)
    opinions = np.column_stack(
        [truth + rng.normal(0, 0.1, count), truth**2, rng.normal(0, 1, count)]
    )
    return opinions, (rng.random(count) < truth).astype(float), truth


def test_the_fitted_probabilities_are_calibrated_on_new_examples() -> None:
    opinions, outcomes, _ = opinions_of(4000)
    found = fit_calibration(opinions, outcomes, np.arange(4000) % 5)
    new, later, _ = opinions_of(4000, seed=1)
    assert calibration_error(found.probability(new), later) < 0.03


def test_an_opinion_that_points_the_wrong_way_gets_no_weight() -> None:
    opinions, outcomes, _ = opinions_of(1000)
    opinions[:, 2] = -opinions[:, 0]
    assert fit_logistic(opinions, outcomes).weights[2] == 0


def test_few_examples_get_the_two_numbers_of_a_logistic_fit() -> None:
    opinions, outcomes, _ = opinions_of(MIN_ISOTONIC - 1)
    assert fit_calibration(opinions, outcomes, np.arange(len(outcomes)) % 5).kind == "platt"


def test_what_no_logistic_curve_fits_gets_steps() -> None:
    rng = np.random.default_rng(0)
    opinions = rng.uniform(0, 1, (5000, 1))
    outcomes = (rng.random(5000) < np.where(opinions[:, 0] > 0.8, 0.95, 0.3)).astype(float)
    found = fit_calibration(opinions, outcomes, np.arange(5000) % 5)
    assert found.kind == "isotonic"
    told = found.probability(np.array([[0.1], [0.7], [0.9]]))
    assert told == pytest.approx([0.3, 0.3, 0.95], abs=0.05)


def test_isotonic_blocks_rise_and_are_large() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(0, 1, 1000)
    outcomes = (rng.random(1000) < probabilities).astype(float)
    at, share = zip(*isotonic(probabilities, outcomes), strict=True)
    assert list(at) == sorted(at)
    assert list(share) == sorted(set(share))
    assert 2 <= len(at) <= 1000 // MIN_BLOCK
    assert 0 < share[0] < share[-1] < 1


@pytest.mark.parametrize("always", [0.0, 1.0])
def test_one_kind_of_outcome_is_never_certainty(always: float) -> None:
    opinions, outcomes, _ = opinions_of(600)
    found = fit_calibration(opinions, np.full_like(outcomes, always), np.arange(600) % 5)
    told = found.probability(opinions)
    assert ((told > 0) & (told < 1)).all()


def test_opinions_that_never_differ_give_the_mean() -> None:
    outcomes = np.array([1.0, 1.0, 1.0, 0.0] * 100)
    found = fit_logistic(np.ones((400, 3)), outcomes)
    assert found.probability(np.ones(3)) == pytest.approx(0.75, abs=0.01)
