"""The answer-side check learns from recorded outcomes, and only what they speak about."""

import pytest

from twin.records import Answer, Question
from twin.specialists.answer import DEFAULT
from twin.train.answer import MIN_ANSWERS, Judged, fit_answer_check

ASKED = Question(text="What do you think?")


def judged(text: str, good: float, count: int) -> list[Judged]:
    answer = Answer(text=text, finish_reason="stop")
    return [(answer, ASKED, float(number < good * count)) for number in range(count)]


def test_hedges_that_turned_out_well_count_less() -> None:
    check = fit_answer_check(judged("I'm not sure, but six.", 0.85, 200) + judged("Six.", 0.9, 200))
    assert check.weights["hedge"] > DEFAULT.weights["hedge"] + 1
    hedged = Answer(text="I'm not sure, but six.", finish_reason="stop")
    assert check.judge(hedged, ASKED).confidence == pytest.approx(0.85, abs=0.03)


def test_what_nobody_met_stays_as_it_was() -> None:
    check = fit_answer_check(judged("Six.", 0.6, 100))
    assert check.weights == pytest.approx(dict(DEFAULT.weights), abs=1e-3)
    plain = check.judge(Answer(text="Six.", finish_reason="stop"), ASKED)
    assert plain.confidence == pytest.approx(0.6, abs=0.1)


def test_no_finding_ever_speaks_for_an_answer() -> None:
    check = fit_answer_check(judged("I don't know.", 1.0, 300) + judged("Six.", 0.2, 300))
    assert max(check.weights.values()) <= 0


def test_too_few_answers_are_refused() -> None:
    with pytest.raises(ValueError, match=str(MIN_ANSWERS)):
        fit_answer_check(judged("Six.", 0.5, MIN_ANSWERS - 1))
