"""What the router learns: from the examples given, from nothing else, and only where there is some
thing to learn."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from twin.gate.routing import calibration_error, curve
from twin.records import Question, RoutingExample
from twin.specialists.router import Router
from twin.specialists.router_features import see
from twin.specialists.router_model import Learnt
from twin.train.router import MIN_EXAMPLES, NUM_FOLDS, cut, fit_router, shortage


def world(count: int, seed: int = 0) -> list[RoutingExample]:
    """Small model: weak at sums; big model: nearly always right. Forty subjects."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        a, b, c = rng.integers(10, 999, 3)
        is_sum = bool(rng.random() < 0.5)
        text = f"What is {a} plus {b} times {c} ?" if is_sum else f"Who ruled {a} years before {b}?"
        found.append(
            RoutingExample(
                question=Question(text=text, num_chars=len(text)),
                weak=float(rng.random() < (0.4 if is_sum else 0.9)),
                strong=float(rng.random() < 0.95),
                at=1e9 + number,
                group=f"subject {rng.integers(40)}",
            )
        )
    return found


def gains(learnt: Learnt, examples: Sequence[RoutingExample]) -> np.ndarray:  # type: ignore[type-arg]
    router = Router.load(learnt.to_bytes())
    return np.array([router.classify(example.question).gain for example in examples])


def outcomes(examples: Sequence[RoutingExample]) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    return np.array([e.weak for e in examples]), np.array([e.strong for e in examples])


@pytest.mark.parametrize("folds", ["row", "group", "time"])
def test_it_routes_new_requests_better_than_chance(folds: str) -> None:
    learnt = fit_router(world(600), folds=folds)  # type: ignore[arg-type]
    later = world(400, seed=1)
    assert curve(gains(learnt, later), *outcomes(later)).apgr > 0.65


def test_its_confidence_can_be_taken_at_its_word() -> None:
    router = Router.load(fit_router(world(1500), folds="row").to_bytes())
    later = world(1500, seed=1)
    told = np.array([router.classify(example.question).confidence for example in later])
    assert calibration_error(told, outcomes(later)[0]) < 0.05


def test_the_same_examples_give_the_same_bytes() -> None:
    assert fit_router(world(250), folds="row") == fit_router(world(250), folds="row")


@pytest.mark.slow
def test_shuffled_outcomes_teach_nothing() -> None:
    """Where this beats chance, an outcome leaks into what is learnt. Without the length, which is
    nobody's outcome; the mean of several shuffles, each of which is off by chance."""
    later = world(400, seed=1)
    found = []
    for seed in range(6):
        examples = world(300, seed=seed)
        dealt = np.random.default_rng([seed, 1]).permutation(len(examples))
        mixed = [
            msgspec.structs.replace(one, weak=examples[at].weak, strong=examples[at].strong)
            for one, at in zip(examples, dealt, strict=True)
        ]
        learnt = fit_router(mixed, folds="row")
        opinions = np.array([learnt.opinions(*see(one.question)) for one in later])
        scores = (opinions[..., 1] - opinions[..., 0]).sum(axis=1)
        found.append(curve(scores, *outcomes(later)).apgr)
    # Two kinds of requests: each shuffle prefers one of them by chance, so only the mean tells.
    assert abs(float(np.mean(found)) - 0.5) < 0.15


def test_inner_folds_keep_groups_and_stretches_of_time_whole() -> None:
    examples = world(300)
    groups = cut(examples, "group", 0)
    for name in {example.group for example in examples}:
        assert len({f for f, e in zip(groups, examples, strict=True) if e.group == name}) == 1
    times = cut(examples, "time", 0)
    assert (np.diff(times) >= 0).all()
    assert set(times) == set(cut(examples, "row", 0)) == set(range(NUM_FOLDS))


def test_where_the_big_answer_is_unknown_the_small_one_still_teaches() -> None:
    examples = [msgspec.structs.replace(one, strong=None) for one in world(600)]
    learnt = fit_router(examples, folds="time")
    assert not learnt.has_strong
    assert learnt.card.num_with_both == 0
    later = world(400, seed=1)
    assert curve(gains(learnt, later), *outcomes(later)).apgr > 0.6


def test_scores_between_zero_and_one_are_outcomes_too() -> None:
    examples = [
        msgspec.structs.replace(one, weak=0.3 + 0.5 * (one.weak or 0.0)) for one in world(400)
    ]
    router = Router.load(fit_router(examples, folds="row").to_bytes())
    told = [router.classify(example.question).confidence for example in examples]
    assert min(told) > 0.25
    assert max(told) < 0.85


def test_requests_without_a_known_small_answer_are_no_obstacle() -> None:
    known = world(400)
    routed = [msgspec.structs.replace(one, weak=None) for one in world(200, seed=3)]
    learnt = fit_router(known + routed, folds="row")
    assert learnt.card.num_examples == 600
    assert learnt.card.num_with_both == 400


def test_texts_without_any_word_can_be_learnt_from() -> None:
    examples = [
        msgspec.structs.replace(one, question=Question(text="" if number % 2 else "…"))
        for number, one in enumerate(world(250))
    ]
    assert 0 < Router.load(fit_router(examples, folds="row").to_bytes()).classify(
        Question(text="")
    ).confidence < 1  # fmt: skip


def test_too_few_examples_are_refused_with_what_is_needed() -> None:
    few = world(MIN_EXAMPLES - 1)
    assert str(MIN_EXAMPLES) in shortage(few)
    with pytest.raises(ValueError, match="too few to learn"):
        fit_router(few, folds="row")


@pytest.mark.parametrize("always", [0.0, 1.0])
def test_outcomes_of_one_kind_alone_are_refused(always: float) -> None:
    same = [msgspec.structs.replace(one, weak=always) for one in world(300)]
    with pytest.raises(ValueError, match="20 are needed"):
        fit_router(same, folds="row")


def test_progress_is_told() -> None:
    told: list[str] = []
    fit_router(world(220), folds="row", progress=lambda what, done, total: told.append(what))
    assert told.count("inner folds") == NUM_FOLDS
    assert told[-1] == "fitting on everything"
