"""Which differences between variants are real."""

import math

import numpy as np
import pytest

from twin.lm.significance import compare, holm, student_quantile, student_tail

Losses = dict[str, dict[int, float]]


def drawn(means: list[float], *, seeds: int, scatter: float, draw: int) -> Losses:
    """Runs whose seed moves all variants together, and a little noise of their own."""
    rng = np.random.default_rng(draw)
    shared = rng.normal(0, 0.1, seeds)
    return {
        f"v{number}": {
            seed: float(mean + shared[seed] + rng.normal(0, scatter)) for seed in range(seeds)
        }
        for number, mean in enumerate(means)
    }


@pytest.mark.parametrize(
    ("t", "freedom", "tail"),
    # scipy.stats.t.sf(t, freedom) * 2
    [
        (1.0, 1, 0.5),
        (4.302652729911275, 2, 0.05),
        (2.0, 3, 0.13932596855884),
        (3.0, 4, 0.03994196807171),
        (2.100922040241, 18, 0.05),
        (0.0, 7, 1.0),
    ],
)
def test_students_tail_is_exact(t: float, freedom: int, tail: float) -> None:
    assert student_tail(t, freedom) == pytest.approx(tail, abs=1e-10)
    assert student_tail(-t, freedom) == student_tail(t, freedom)


def test_students_quantile_is_where_the_tail_is() -> None:
    assert student_quantile(0.975, 2) == pytest.approx(4.302652729911275)
    assert student_quantile(0.975, 18) == pytest.approx(2.100922040241)
    assert math.isinf(student_quantile(0.975, 0))


def test_holm_is_stepwise_monotone_and_keeps_the_order_given() -> None:
    assert holm([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_difference_far_beyond_the_scatter_is_real() -> None:
    found = compare(drawn([1.60, 1.60, 1.70], seeds=3, scatter=0.004, draw=0))
    real = {(one.left, one.right) for one in found if one.is_real}
    assert real == {("v0", "v2"), ("v1", "v2")}
    told = next(one for one in found if one.right == "v2")
    assert str(told).startswith("v0 is better than v2: -0.09")
    assert told.low < told.mean < told.high < 0


def test_a_shared_move_of_a_seed_is_no_noise() -> None:
    """Paired: seeds scatter by 0.1, the difference of 0.02 is seen all the same."""
    assert all(one.is_real for one in compare(drawn([1.60, 1.62], seeds=8, scatter=0.003, draw=1)))


def test_equal_variants_are_rarely_told_apart() -> None:
    """Over ten equal variants, at most about one tournament in twenty has even one false pair."""
    false = sum(
        any(one.is_real for one in compare(drawn([1.6] * 10, seeds=3, scatter=0.01, draw=draw)))
        for draw in range(200)
    )
    assert false <= 20


def test_one_seed_tells_nothing() -> None:
    assert compare({"a": {0: 1.0}, "b": {0: 9.0}}) == []
    assert compare({"a": {0: 1.0, 1: 1.0}}) == []
    assert compare({}) == []


def test_only_seeds_that_all_have_count() -> None:
    found = compare({"a": {0: 1.0, 1: 1.1, 2: 5.0}, "b": {0: 1.2, 1: 1.3}})
    assert found[0].num_seeds == 2
    assert found[0].mean == pytest.approx(-0.2)


def test_a_variant_that_diverged_is_left_out() -> None:
    found = compare({"a": {0: 1.0, 1: 1.1}, "b": {0: math.nan, 1: 1.3}, "c": {0: 1.2, 1: 1.2}})
    assert [(one.left, one.right) for one in found] == [("a", "c")]


def test_identical_runs_do_not_differ_and_a_constant_gap_does() -> None:
    same = compare({"a": {0: 1.0, 1: 1.1}, "b": {0: 1.0, 1: 1.1}})[0]
    assert (same.is_real, same.probability) == (False, 1.0)
    apart = compare({"a": {0: 1.0, 1: 2.0}, "b": {0: 1.5, 1: 2.5}})[0]
    assert apart.is_real
