"""Recall, MRR, all@k and hit@k, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.gate.metrics import (
    METRICS,
    PRIMARY,
    breakdown,
    chance_curve,
    measure,
    recall_curve,
    scores,
)
from twin.records import RankedTask


def test_one_task_with_three_targets_by_hand(ranked) -> None:
    figures = measure(ranked([(2, 5, 11)]))
    assert figures == pytest.approx(
        {
            PRIMARY: (0 + 2 / 3 + 2 / 3) / 3,
            "recall@1": 0.0,
            "recall@5": 2 / 3,
            "recall@10": 2 / 3,
            "mrr": 0.5,
            "all@5": 0.0,
            "all@10": 0.0,
            "hit@1": 0.0,
            "hit@5": 1.0,
        }
    )


def test_every_target_inside_k_is_what_all_at_k_asks(ranked) -> None:
    assert scores(ranked([(1, 5), (1, 6), 5, 6]), "all@5").tolist() == [1, 0, 1, 0]


def test_a_mean_is_over_tasks_not_over_targets(ranked) -> None:
    assert measure(ranked([(1, 2, 3, 4), 1]))["recall@1"] == pytest.approx((1 / 4 + 1) / 2)


def test_the_breakdown_is_pooled_per_repository_and_over_large_repositories(ranked) -> None:
    large = ranked([1, 9], repository="a/large", num_candidates=50)
    small = ranked([1, 1], repository="b/small", num_candidates=49)
    figures = breakdown([*small, *large])
    assert figures.num_tasks == 4
    assert figures.pooled["recall@5"] == 0.75
    assert figures.num_large_tasks == 2
    assert figures.large["recall@5"] == 0.5
    assert list(figures.repositories) == ["a/large", "b/small"]
    assert figures.repositories["b/small"]["recall@5"] == 1.0


def test_no_tasks_have_no_figures_rather_than_zeros(ranked) -> None:
    assert measure([]) == {}
    assert breakdown([]).pooled == {}
    assert recall_curve([], 3) == (0.0, 0.0, 0.0)
    assert chance_curve([], 3) == (0.0, 0.0, 0.0)


def test_chance_finds_k_of_n(ranked) -> None:
    assert chance_curve(ranked([1, 1], num_candidates=4), 5) == (0.25, 0.5, 0.75, 1.0, 1.0)


@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5), min_size=1, max_size=20))
def test_every_figure_lies_between_zero_and_one_and_curves_only_rise(
    ranks: list[list[int]],
) -> None:
    tasks = [
        RankedTask(
            repository="r",
            commit_id=str(number),
            time=number,
            num_candidates=40,
            num_source_files=40,
            target_ranks=tuple(sorted(own)),
        )
        for number, own in enumerate(ranks)
    ]
    assert measure(tasks).keys() == METRICS.keys()
    assert all(0 <= value <= 1 for value in measure(tasks).values())
    curve = recall_curve(tasks, 40)
    assert list(curve) == sorted(curve)
    assert curve[-1] == pytest.approx(1.0)
