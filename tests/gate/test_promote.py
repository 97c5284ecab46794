"""A candidate goes into service only if it is better than BM25 and than what is in service."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from twin.errors import IllegalMove, Refused
from twin.gate.promote import Judgement, in_service, judge_and_promote
from twin.records import Decision, Interval, Lineage, ModelVersion, Verdict
from twin.store.database import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path) as opened:
        yield opened


def candidate(store: Store) -> ModelVersion:
    lineage = Lineage(code_version="0.1.0", dataset_hash="d" * 64)
    artifact = store.artifacts.put(b"a model")
    return store.registry.add(model="relevance", artifact=artifact, lineage=lineage, metrics={})


def verdict(version: ModelVersion, opponent: str, decision: Decision) -> Verdict:
    return Verdict(
        decision=decision,
        candidate=version.version_id,
        opponent=opponent,
        num_tasks=100,
        metric="recall@1/5/10",
        difference=Interval(value=0.1, low=0.05, high=0.15),
        reason=f"{decision} than {opponent}.",
    )


def judged(store: Store, version: ModelVersion, decisions: dict[str, Decision]) -> Judgement:
    verdicts = [verdict(version, opponent, word) for opponent, word in decisions.items()]
    return judge_and_promote(store.registry, version, verdicts)


def live(store: Store) -> str | None:
    version = store.registry.live("relevance")
    return version.version_id if version else None


def test_the_first_candidate_must_beat_bm25_and_the_shipped_default(store: Store) -> None:
    assert in_service(store.registry, "relevance") == "default"
    outcome = judged(store, candidate(store), {"bm25": "better", "default": "better"})
    assert outcome.promoted
    assert outcome.in_service == "relevance-1" == live(store)
    assert outcome.version.status == "live"
    assert outcome.reason == "better than bm25. better than default."
    moves = [(move.before, move.after) for move in store.registry.history("relevance")]
    assert moves == [("candidate", "passed"), ("passed", "live")]


@pytest.mark.parametrize("decision", ["worse", "not enough data"])
@pytest.mark.parametrize("opponent", ["bm25", "default"])
def test_anything_but_better_against_either_keeps_the_shipped_default(
    store: Store, opponent: str, decision: Decision
) -> None:
    decisions: dict[str, Decision] = {"bm25": "better", "default": "better", opponent: decision}
    outcome = judged(store, candidate(store), decisions)
    assert not outcome.promoted
    assert outcome.in_service == "default"
    assert live(store) is None
    assert outcome.version.status == "failed"
    assert outcome.reason == f"{decision} than {opponent}."


def test_a_candidate_that_beats_bm25_but_not_the_version_in_service_keeps_the_old_one(
    store: Store,
) -> None:
    judged(store, candidate(store), {"bm25": "better", "default": "better"})
    outcome = judged(store, candidate(store), {"bm25": "better", "relevance-1": "not enough data"})
    assert not outcome.promoted
    assert outcome.in_service == "relevance-1" == live(store)
    assert store.registry.get("relevance-2").status == "failed"


def test_a_better_candidate_retires_the_version_in_service(store: Store) -> None:
    judged(store, candidate(store), {"bm25": "better", "default": "better"})
    outcome = judged(store, candidate(store), {"bm25": "better", "relevance-1": "better"})
    assert outcome.in_service == "relevance-2" == live(store)
    assert store.registry.get("relevance-1").status == "retired"


def test_after_a_promotion_the_default_is_no_longer_the_opponent_to_beat(store: Store) -> None:
    judged(store, candidate(store), {"bm25": "better", "default": "better"})
    late = candidate(store)
    with pytest.raises(Refused, match="was not compared with relevance-1, which is in service now"):
        judged(store, late, {"bm25": "better", "default": "better"})
    assert store.registry.get(late.version_id).status == "candidate"
    assert live(store) == "relevance-1"


def test_a_verdict_on_another_version_does_not_count(store: Store) -> None:
    first, second = candidate(store), candidate(store)
    verdicts = [verdict(first, "bm25", "better"), verdict(first, "default", "better")]
    with pytest.raises(ValueError, match="relevance-2 has no verdict against bm25"):
        judge_and_promote(store.registry, second, verdicts)


def test_judging_again_after_an_interruption_goes_on_where_it_stopped(store: Store) -> None:
    version = candidate(store)
    decisions: dict[str, Decision] = {"bm25": "better", "default": "better"}
    store.registry.move(version.version_id, "passed", "then the power failed")
    assert judged(store, version, decisions).promoted
    assert judged(store, version, decisions).promoted
    assert len(store.registry.history("relevance")) == 2


def test_a_version_that_failed_does_not_come_back_through_kinder_verdicts(store: Store) -> None:
    version = candidate(store)
    judged(store, version, {"bm25": "worse", "default": "better"})
    assert not judged(store, version, {"bm25": "worse", "default": "better"}).promoted
    with pytest.raises(IllegalMove):
        judged(store, version, {"bm25": "better", "default": "better"})
    assert live(store) is None
