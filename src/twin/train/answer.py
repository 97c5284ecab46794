"""Fits the answer-side check on answers whose outcome is known.

Owns the fit alone: which findings there are is `specialists.answer`'s business. The untrained
weights are the prior mean, so that a hundred answers move only what they speak about, and a finding
that nobody met stays where it was.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from twin.records import Answer, Question
from twin.specialists.answer import DEFAULT, AnswerCheck, findings

Floats = NDArray[np.float64]

MIN_ANSWERS: Final = 50
PENALTY: Final = 0.1
"""Of the squared distance from the untrained weights: a tenth of a nat for one step of the logit,
so that a dozen answers begin to move it."""

Judged = tuple[Answer, Question, float]
"""An answer, what was asked, and how good it was in [0, 1]."""


def fit_answer_check(judged: Sequence[Judged]) -> AnswerCheck:
    """The most probable weights given the outcomes and the untrained ones; none above zero.

    Raises ValueError for fewer than `MIN_ANSWERS` answers.
    """
    from scipy.optimize import minimize

    if len(judged) < MIN_ANSWERS:
        raise ValueError(
            f"{len(judged)} judged answers are too few to learn from; {MIN_ANSWERS} are needed."
        )
    names = list(DEFAULT.weights)
    values = np.zeros((len(judged), len(names) + 1))
    values[:, -1] = 1.0
    for row, (answer, question, _) in enumerate(judged):
        for name, value in findings(answer, question).items():
            values[row, names.index(name)] = value
    outcomes = np.array([outcome for _, _, outcome in judged])
    prior = np.array([*DEFAULT.weights.values(), DEFAULT.bias])
    penalty = np.append(np.full(len(names), PENALTY), 0.01)

    def loss(weights: Floats) -> tuple[float, Floats]:
        logit = values @ weights
        away = weights - prior
        value = np.logaddexp(0, logit).sum() - outcomes @ logit + penalty @ away**2
        odds = 1 / (1 + np.exp(-np.clip(logit, -500, 500)))
        return float(value), values.T @ (odds - outcomes) + 2 * penalty * away

    # A finding never speaks for an answer: above zero would be luck, and an invitation.
    bounds = [(-12.0, 0.0)] * len(names) + [(-6.0, 6.0)]
    found = minimize(loss, prior, jac=True, method="L-BFGS-B", bounds=bounds).x
    return AnswerCheck(
        bias=float(found[-1]), weights=dict(zip(names, map(float, found[:-1]), strict=True))
    )
