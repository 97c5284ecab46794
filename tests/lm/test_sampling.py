"""One token out of logits: every cut, every penalty, and what is told about it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.lm.errors import BadConfig, BadTokens
from twin.lm.sampling import Sampling, choose, draw, log_softmax, uniform

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.04, 0.01], np.float32))
NONE = np.empty(0, np.int64)


def drawn(history: np.ndarray = NONE, count: int = 400, **settings: object) -> set[int]:
    """Every token that comes up."""
    sampling = Sampling(**settings)  # type: ignore[arg-type]
    return {choose(LOGITS, sampling, 7, place, history).token for place in range(count)}


def test_draws_follow_the_probabilities() -> None:
    found = [choose(LOGITS, Sampling(), 1, place, NONE).token for place in range(4000)]
    shares = np.bincount(found, minlength=5) / 4000
    np.testing.assert_allclose(shares, np.exp(LOGITS), atol=0.03)


def test_at_temperature_zero_the_likeliest_comes() -> None:
    assert drawn(temperature=0) == {0}
    assert drawn(temperature=1e-9) == {0}


def test_a_low_temperature_sharpens_and_a_high_one_flattens() -> None:
    assert drawn(temperature=0.05) == {0}
    assert drawn(temperature=50) == {0, 1, 2, 3, 4}


def test_cuts_leave_only_the_likeliest() -> None:
    assert drawn(top_k=2, temperature=5) == {0, 1}
    assert drawn(top_p=0.79) == {0, 1}
    assert drawn(top_p=0.81) == {0, 1, 2}
    assert drawn(top_p=0) == {0}
    assert drawn(min_p=0.25) == {0, 1, 2}
    assert drawn(min_p=1) == {0}


def test_of_equal_logits_top_k_keeps_k() -> None:
    flat = np.zeros(6, np.float32)
    found = {choose(flat, Sampling(top_k=2), 1, place, NONE).token for place in range(200)}
    assert found == {0, 1}


def test_a_bias_forces_or_forbids() -> None:
    assert drawn(logit_bias={4: 100}) == {4}
    assert 0 not in drawn(logit_bias={0: -100, 99: 5})


def test_penalties_make_what_was_used_rarer() -> None:
    used = np.array([0, 0, 0])
    assert drawn(used, temperature=0, repetition_penalty=2.0) == {1}
    assert drawn(used, temperature=0, presence_penalty=1.0) == {1}
    assert drawn(used, temperature=0, frequency_penalty=0.3) == {1}
    assert drawn(used, temperature=0, frequency_penalty=0.3, penalty_window=1) == {0}
    assert drawn(used, temperature=0, frequency_penalty=0.3, penalty_window=0) == {0}


def test_what_is_told_is_the_models_own_opinion_before_any_cut() -> None:
    found = choose(LOGITS, Sampling(top_k=1, temperature=9, top_logprobs=3), 1, 0, NONE)
    assert found.logprob == pytest.approx(math.log(0.5))
    assert [token for token, _ in found.top] == [0, 1, 2]
    assert [math.exp(value) for _, value in found.top] == pytest.approx([0.5, 0.3, 0.15])
    assert choose(LOGITS, Sampling(top_logprobs=0), 1, 0, NONE).top == ()
    assert choose(LOGITS, Sampling(), 1, 0, NONE).logprob is None
    assert len(choose(LOGITS, Sampling(top_logprobs=50), 1, 0, NONE).top) == 5


def test_a_model_that_says_no_number_is_refused() -> None:
    with pytest.raises(BadTokens, match="no number"):
        choose(np.array([1, math.nan], np.float32), Sampling(), 1, 0, NONE)


def test_where_no_token_is_left_that_is_said() -> None:
    sampling = Sampling(repetition_penalty=0.01)
    object.__setattr__(sampling, "logit_bias", {0: -math.inf, 1: -math.inf})
    with pytest.raises(BadTokens, match="No token is left"):
        choose(np.array([1, 2], np.float32), sampling, 1, 0, NONE)


@pytest.mark.parametrize(
    "wrong",
    [{"top_k": 10**400}, {"max_tokens": 10**5000}, {"temperature": 10**400},
     {"logit_bias": {1: 1001.0}}, {"logit_bias": {1: 10**400}}, {"logit_bias": {1: math.nan}},
     {"temperature": math.inf}, {"temperature": -1}, {"temperature": math.nan}, {"top_p": 1.5},
     {"top_k": -1}, {"stop": ("",)},
     {"stop": ("x",) * 17}, {"max_tokens": -1}, {"logit_bias": {1: math.inf}},
     {"repetition_penalty": 0}, {"top_logprobs": 1000}, {"stop": ("x" * 2000,)}],
)  # fmt: skip
def test_values_out_of_range_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(BadConfig, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_a_number_of_a_seed_lies_between_zero_and_one(seed: int, place: int) -> None:
    assert 0 <= uniform(seed, place) < 1


def test_the_native_code_draws_the_same_numbers() -> None:
    from twin.lm.decode.library import load

    library = load()
    for seed, place in [(0, 0), (1, 2), (2**63, 5), (2**64 - 1, 2**33)]:
        assert library.decode_uniform(seed, place) == uniform(seed, place)


@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40),
    st.floats(0, 1, exclude_max=True),
)
def test_a_draw_is_always_a_token_that_can_be(values: list[float], u: float) -> None:
    logits = np.array(values, np.float32)
    token = draw(logits, 1.0, u)
    assert 0 <= token < len(logits)
    assert np.exp(log_softmax(logits)).sum() == pytest.approx(1)
