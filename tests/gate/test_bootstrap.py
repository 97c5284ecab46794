"""Intervals and the sign-flip test: seeded, by cluster, within strata, and right when few."""

import numpy as np
import pytest

from twin.gate.bootstrap import _student_quantile, mean_interval, sign_flip_probability


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(1).normal(0, 0.3, 80)
    first = mean_interval(values, ["r"] * 80, range(80), seed=5)
    again = mean_interval(values, ["r"] * 80, range(80), seed=5)
    other = mean_interval(values, ["r"] * 80, range(80), seed=6)
    assert first == again
    assert first != other


def test_many_independent_values_give_the_interval_of_the_textbook() -> None:
    values = np.random.default_rng(2).normal(0.1, 0.3, 900)
    interval = mean_interval(values, ["r"] * 900, range(900), rounds=20_000)
    half = 1.96 * values.std(ddof=1) / 30
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.001)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.001)


def test_copies_of_one_piece_of_work_on_one_day_add_no_certainty() -> None:
    values = np.random.default_rng(3).normal(0.1, 0.3, 40)
    once = mean_interval(values, ["r"] * 40, range(40))
    copied = mean_interval(np.repeat(values, 5), ["r"] * 200, np.repeat(np.arange(40), 5).tolist())
    believed = mean_interval(np.repeat(values, 5), ["r"] * 200, range(200))
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=0.1)
    assert believed.high - believed.low < 0.6 * (once.high - once.low)


def test_a_difference_between_repositories_is_no_uncertainty_within_them() -> None:
    values = np.array([0.5] * 30 + [-0.5] * 30)
    strata = ["a"] * 30 + ["b"] * 30
    within = mean_interval(values, strata, range(60))
    assert (within.low, within.value, within.high) == (0.0, 0.0, 0.0)
    across = mean_interval(values, ["one"] * 60, range(60))
    assert across.high - across.low > 0.2


def test_equal_cluster_names_in_two_repositories_are_two_clusters() -> None:
    values = np.random.default_rng(4).normal(0, 0.3, 40)
    shared = mean_interval(values, ["a"] * 20 + ["b"] * 20, [*range(20), *range(20)])
    apart = mean_interval(values, ["a"] * 20 + ["b"] * 20, range(40))
    assert shared == apart


def test_few_clusters_widen_the_interval_beyond_plain_percentiles() -> None:
    values = np.random.default_rng(5).normal(0, 0.3, 12)
    interval = mean_interval(values, ["r"] * 12, range(12), rounds=20_000)
    plain = 2 * 1.96 * values.std() / 12**0.5
    assert interval.high - interval.low > 1.1 * plain


@pytest.mark.parametrize("count", [0, 1])
def test_without_a_second_cluster_nothing_is_known(count: int) -> None:
    interval = mean_interval(np.full(count, 0.25), ["r"] * count, range(count))
    assert (interval.low, interval.high) == (-1.0, 1.0)


def test_a_hundred_tasks_of_one_day_are_one_cluster() -> None:
    interval = mean_interval(np.full(100, 0.25), ["r"] * 100, [7] * 100)
    assert (interval.value, interval.low, interval.high) == (0.25, -1.0, 1.0)


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(10, -2.2281), (29, -2.0452), (100, -1.9840), (5000, -1.9604)]
)
def test_student_quantiles_agree_with_the_tables(freedom: int, quantile: float) -> None:
    assert _student_quantile(0.025, freedom) == pytest.approx(quantile, rel=0.001)


def test_five_wins_of_five_are_one_chance_in_thirty_two() -> None:
    differences = np.array([1 / 3] * 5 + [0.0] * 60)
    chance = sign_flip_probability(differences, ["r"] * 65, range(65), below=0.0025, rounds=20_000)
    assert chance == pytest.approx(1 / 32, abs=0.005)


def test_rankers_that_never_differ_are_surely_no_better() -> None:
    assert sign_flip_probability(np.zeros(50), ["r"] * 50, range(50), below=0.025) == 1.0


def test_five_thousand_tasks_and_a_strict_level_stay_in_memory() -> None:
    values = np.random.default_rng(6).normal(0.05, 0.3, 5000)
    interval = mean_interval(values, ["r"] * 5000, range(5000), alpha=0.005)
    assert interval.low > 0.03
    assert sign_flip_probability(values, ["r"] * 5000, range(5000), below=0.0025) < 0.0025


@pytest.mark.parametrize("num_days", [2, 3, 4])
def test_a_handful_of_days_gives_a_wide_interval_and_no_fault(num_days: int) -> None:
    values = np.linspace(-0.5, 0.5, num_days)
    interval = mean_interval(values, [0] * num_days, range(num_days))
    assert interval.low <= values.min()
    assert interval.high >= values.max()
