"""What is learnt in bulk is what one request at a time is told: no skew between the two."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.records import Question, RoutingExample
from twin.specialists.router_features import see
from twin.train.router_rows import MIN_KNOWN, Rows, fit_learners


def examples(texts: list[str], *, seed: int = 0) -> list[RoutingExample]:
    rng = np.random.default_rng(seed)
    return [
        RoutingExample(
            question=Question(text=text, has_tools=bool(rng.random() < 0.3)),
            weak=float(rng.random() < 0.6),
            strong=float(rng.random() < 0.8),
        )
        for text in texts
    ]


def sentences(count: int, seed: int = 0) -> list[str]:
    text = "what why is the sum of 3 7.5 x^2 (blue) A. B.\n not EXCEPT I we code() prove"
    words = text.split(" ")
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, int(rng.integers(1, 40)))) for _ in range(count)]


def test_one_request_gets_the_opinions_that_training_saw() -> None:
    rows = Rows.of(examples(sentences(300)))
    learners = fit_learners(rows, np.ones(300, bool), seed=0)
    later = examples(sentences(50, seed=1), seed=1)
    together = learners.opinions(Rows.of(later), np.ones(50, bool))
    trees = learners.trees()
    for example, expected in zip(later, together, strict=True):
        seen = see(example.question)
        alone = [
            [tree.predict(seen.row) for tree in trees],
            learners.words.predict(seen.words),
            learners.chars.predict(seen.chars),
        ]
        assert np.asarray(alone) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=5))
def test_any_texts_become_rows_without_a_gap(texts: list[str]) -> None:
    rows = Rows.of(examples(texts))
    assert len(rows) == len(texts)
    assert np.isfinite(rows.shape).all()
    assert rows.words.shape == rows.chars.shape


def test_only_the_chosen_rows_are_learnt_from() -> None:
    """The rest may change in text and outcome: the learners stay the same."""
    chosen = np.arange(300) < 200
    one = examples(sentences(300))
    other = one[:200] + examples(sentences(100, seed=7), seed=7)
    asked = Rows.of(examples(sentences(20, seed=9)))
    first = fit_learners(Rows.of(one), chosen, 0).opinions(asked, np.ones(20, bool))
    second = fit_learners(Rows.of(other), chosen, 0).opinions(asked, np.ones(20, bool))
    assert (first == second).all()


def test_a_tier_with_few_known_answers_is_told_by_its_mean() -> None:
    few = examples(sentences(300))
    few = [
        one if at < MIN_KNOWN - 1 else RoutingExample(question=one.question, weak=1.0, strong=None)
        for at, one in enumerate(few)
    ]
    rows = Rows.of(few)
    opinions = fit_learners(rows, np.ones(300, bool), 0).opinions(rows, np.ones(300, bool))
    assert len(np.unique(opinions[:, 0, 1])) == 1
    assert 0.5 < opinions[0, 0, 1] < 1
