"""When a router counts as better than another."""

import numpy as np
import pytest

from twin.config import FitConfig
from twin.gate.route_verdict import (
    ACCURACY,
    ERROR,
    MIN_CLUSTERS,
    MIN_HOLDOUT,
    Outcomes,
    Told,
    earlier_looks,
    judge,
    measure,
)
from twin.records import Lineage, ModelVersion, Question, RoutingExample

FIT = FitConfig()
DAY = 86_400.0


def world(count: int, *, days: int = 30, seed: int = 0) -> tuple[Outcomes, np.ndarray]:  # type: ignore[type-arg]
    """(outcomes, the true probability that the small model is right)."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.2, 1.0, count)
    outcomes = Outcomes(
        weak=(rng.random(count) < truth).astype(float),
        strong=np.ones(count),
        clusters=tuple(map(int, rng.integers(days, size=count))),
        unit="days",
    )
    return outcomes, truth


def knowing(truth: np.ndarray) -> Told:  # type: ignore[type-arg]
    return Told(gain=1 - truth, confidence=truth)


def guessing(count: int, seed: int = 5) -> Told:
    chance = np.random.default_rng(seed).random(count)
    return Told(gain=chance, confidence=np.full(count, 0.6))


def test_a_router_that_knows_is_better_than_one_that_guesses() -> None:
    outcomes, truth = world(600)
    found = judge("router-1", "rules", knowing(truth), guessing(600), outcomes, fit=FIT)
    assert found.decision == "better"
    assert found.metric == ACCURACY
    assert found.difference.low > 0
    assert "router-1 against rules on 600 held-out requests" in found.reason


def test_the_other_way_round_it_is_worse() -> None:
    outcomes, truth = world(600)
    assert judge("a", "b", guessing(600), knowing(truth), outcomes, fit=FIT).decision == "worse"


def test_two_guesses_cannot_be_told_apart() -> None:
    outcomes, _ = world(600)
    found = judge("a", "b", guessing(600, 1), guessing(600, 2), outcomes, fit=FIT)
    assert found.decision == "not enough data"
    assert "may be chance" in found.reason


def test_a_better_order_with_a_worse_confidence_is_worse() -> None:
    outcomes, truth = world(600)
    bold = Told(gain=1 - truth, confidence=np.where(truth > 0.6, 0.01, 0.99))
    found = judge("a", "b", bold, guessing(600), outcomes, fit=FIT)
    assert found.decision == "worse"
    assert found.metric == ERROR


def test_where_the_big_answer_is_unknown_the_confidence_decides() -> None:
    outcomes, truth = world(600)
    unknown = Outcomes(
        weak=outcomes.weak,
        strong=np.full(600, np.nan),
        clusters=outcomes.clusters,
        unit="days",
    )
    found = judge("a", "b", knowing(truth), guessing(600), unknown, fit=FIT)
    assert (found.decision, found.metric) == ("better", ERROR)


@pytest.mark.parametrize(
    ("count", "days", "needed"),
    [(MIN_HOLDOUT - 1, 30, MIN_HOLDOUT), (300, MIN_CLUSTERS - 1, MIN_CLUSTERS)],
)
def test_too_little_gives_no_verdict_and_says_what_is_needed(
    count: int, days: int, needed: int
) -> None:
    outcomes, truth = world(count, days=days)
    found = judge("a", "b", knowing(truth), guessing(count), outcomes, fit=FIT)
    assert found.decision == "not enough data"
    assert str(needed) in found.reason


def test_many_earlier_looks_ask_for_more() -> None:
    outcomes, truth = world(120, days=12, seed=3)
    half = Told(gain=0.4 * (1 - truth) + 0.6 * guessing(120).gain, confidence=truth)
    first = judge("a", "b", half, guessing(120), outcomes, fit=FIT)
    later = judge("a", "b", half, guessing(120), outcomes, fit=FIT, earlier_looks=500.0)
    assert first.decision == "better"
    assert later.decision == "not enough data"
    assert first.difference == later.difference


def example(at: float | None, group: str = "") -> RoutingExample:
    return RoutingExample(question=Question(text="?"), weak=1.0, strong=None, at=at, group=group)


def test_clusters_are_days_else_subjects_else_requests() -> None:
    by_day = Outcomes.of([example(0.0), example(DAY - 1), example(DAY)])
    assert (by_day.clusters, by_day.unit) == ((0, 0, 1), "days")
    by_subject = Outcomes.of([example(None, "law"), example(0.0, "law"), example(None, "art")])
    assert (by_subject.clusters, by_subject.unit) == (("law", "law", "art"), "subjects")
    alone = Outcomes.of([example(None), example(None, "law")])
    assert (alone.clusters, alone.unit) == ((0, 1), "requests")
    assert Outcomes.of([example(0.0)], by_row=True).unit == "requests"


def test_figures_are_none_where_nothing_can_be_said() -> None:
    outcomes = Outcomes.of([example(0.0) for _ in range(60)])
    found = measure(guessing(60), outcomes, FIT)
    assert found["apgr"] is None
    assert found["ece"] == pytest.approx(0.4)


def test_the_apgr_has_its_interval_around_it() -> None:
    outcomes, truth = world(600)
    found = measure(knowing(truth), outcomes, FIT)
    low, high = found["apgr_interval"]  # type: ignore[misc]
    assert 0.5 < low < found["apgr"] < high < 1.0  # type: ignore[operator]


def test_only_requests_older_than_a_judgement_count_as_looked_at() -> None:
    version = ModelVersion(
        version_id="router-1",
        model="router",
        status="failed",
        artifact="a" * 64,
        created_at=10.0,
        lineage=Lineage(code_version="0", dataset_hash="d"),
    )
    assert earlier_looks([version], [example(5.0), example(15.0)]) == 0.5
    assert earlier_looks([version], [example(None)]) == 1.0
    assert earlier_looks([version], []) == 0.0
