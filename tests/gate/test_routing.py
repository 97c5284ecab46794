"""APGR, CPT and calibration error: what they are on orders whose figures are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.gate.routing import calibration_error, curve, places


def test_a_random_order_recovers_half_of_the_gap() -> None:
    rng = np.random.default_rng(0)
    weak = (rng.random(20_000) < 0.69).astype(float)
    strong = (rng.random(20_000) < 0.81).astype(float)
    found = [curve(np.random.default_rng(100 + s).random(20_000), weak, strong) for s in range(10)]
    assert np.mean([one.apgr for one in found]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([one.cpt(0.5) for one in found]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([one.cpt(0.8) for one in found]) == pytest.approx(0.8, abs=0.03)


def test_the_published_formula_by_hand() -> None:
    """Ten requests, gains in the first five; the router finds them all. Thresholds at ten-quantiles
    ask the big model for 100 %, 90 % ... of the requests: the accuracy is 1 from 50 % on."""
    weak = np.array([0.0] * 5 + [1.0] * 5)
    found = curve(np.arange(10, 0, -1.0), weak, np.ones(10))
    assert found.share == pytest.approx(np.arange(11) / 10)
    assert found.accuracy == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, *[1.0] * 6])
    # Area 0.375 + 0.5, less the small model's 0.5, over the gap of 0.5.
    assert found.apgr == pytest.approx(0.75)
    assert found.cpt(0.5) == pytest.approx(0.25)
    assert found.cpt(0.8) == pytest.approx(0.4)


def test_the_opposite_order_recovers_what_is_left() -> None:
    weak = np.array([0.0] * 5 + [1.0] * 5)
    assert curve(np.arange(10.0), weak, np.ones(10)).apgr == pytest.approx(0.25)


def test_one_score_for_everything_is_chance() -> None:
    weak = np.array([0.0, 1.0, 0.0, 1.0])
    assert curve(np.zeros(4), weak, np.ones(4)).apgr == pytest.approx(0.5)


def test_equal_models_leave_no_gap_to_recover() -> None:
    assert np.isnan(curve(np.arange(4.0), np.ones(4), np.ones(4)).apgr)


def test_no_request_is_refused() -> None:
    with pytest.raises(ValueError, match="no request"):
        curve(np.empty(0), np.empty(0), np.empty(0))


def test_only_the_order_of_scores_matters() -> None:
    rng = np.random.default_rng(0)
    scores, weak = rng.random(500), (rng.random(500) < 0.5).astype(float)
    first = curve(scores, weak, np.ones(500)).apgr
    assert curve(3 * scores - 7, weak, np.ones(500)).apgr == pytest.approx(first)


def test_true_probabilities_are_calibrated_and_bold_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.1, 0.9, 50_000)
    outcomes = (rng.random(50_000) < truth).astype(float)
    assert calibration_error(truth, outcomes) < 0.01
    bold = np.where(truth > 0.5, 0.99, 0.01)
    assert calibration_error(bold, outcomes) > 0.25


def test_the_calibration_error_by_hand() -> None:
    told, outcomes = np.array([0.1, 0.3, 0.6, 0.8]), np.array([0.0, 0.0, 1.0, 1.0])
    # Two bins of two: |0.2 - 0| and |0.7 - 1|.
    assert calibration_error(told, outcomes, bins=2) == pytest.approx(0.25)
    assert calibration_error(np.empty(0), np.empty(0)) == 0


@given(st.lists(st.integers(0, 5), min_size=1, max_size=50))
def test_places_lie_in_order_with_ties_together_and_mean_one_half(values: list[int]) -> None:
    found = places(np.array(values, np.float64))
    assert found.mean() == pytest.approx(0.5)
    assert ((found > 0) & (found < 1)).all()
    for one, place in zip(values, found, strict=True):
        for other, other_place in zip(values, found, strict=True):
            assert (one < other) == (place < other_place)


def test_the_mean_of_gain_times_place_is_the_area_under_the_curve() -> None:
    rng = np.random.default_rng(0)
    scores, weak = rng.random(20_000), rng.random(20_000)
    strong = np.clip(weak + 0.3 * scores, 0, 1)
    gain = strong - weak
    worth = 0.5 + float((gain * (places(scores) - 0.5)).mean() / gain.mean())
    assert worth == pytest.approx(curve(scores, weak, strong).apgr, abs=0.01)
