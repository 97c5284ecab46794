"""From an opinion to a probability that can be taken at its word: logistic and isotonic fits.

Owns the two fits and the choice between them, made on examples that neither was fitted on. Both
take outcomes anywhere in [0, 1], so that a score of 0.7 counts as it was given.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from twin.specialists.router_model import Calibration

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_BLOCK: Final = 50
"""Examples behind one step of the isotonic fit: a step of ten is luck."""
MIN_ISOTONIC: Final = 500
"""Below this the two numbers of a logistic fit are all that can be learnt (Niculescu-Mizil and
Caruana, ICML 2005, place the crossing near a thousand)."""


def fit_calibration(opinions: Floats, outcomes: Floats, folds: Ints) -> Calibration:
    """For opinions [examples, learners] on examples that the learners had not seen.

    `folds` says which examples are kept back together when the two kinds are compared.
    """
    platt = fit_logistic(opinions, outcomes)
    if len(outcomes) < MIN_ISOTONIC:
        return platt
    errors = {"platt": 0.0, "isotonic": 0.0}
    for fold in np.unique(folds):
        ours, theirs = folds != fold, folds == fold
        logistic = fit_logistic(opinions[ours], outcomes[ours])
        stepped = _with_steps(logistic, opinions[ours], outcomes[ours])
        for kind, one in (("platt", logistic), ("isotonic", stepped)):
            found = one.probability(opinions[theirs])
            errors[kind] += float(((found - outcomes[theirs]) ** 2).sum())
    if errors["isotonic"] < errors["platt"]:
        return _with_steps(platt, opinions, outcomes)
    return platt


def fit_logistic(opinions: Floats, outcomes: Floats, penalty: float = 1.0) -> Calibration:
    """Platt's method on several opinions at once, no weight below zero: an opinion that a target
    is likely must not count against it."""
    from scipy.optimize import minimize

    centers, scales = opinions.mean(axis=0), opinions.std(axis=0)
    scales = np.where(scales > 1e-9, scales, 1.0)
    columns = np.column_stack([(opinions - centers) / scales, np.ones(len(outcomes))])
    ridge = np.append(np.full(opinions.shape[1], penalty), 0.0)

    def loss(weights: Floats) -> tuple[float, Floats]:
        logit = columns @ weights
        value = np.logaddexp(0, logit).sum() - outcomes @ logit + ridge @ weights**2
        slope = columns.T @ (1 / (1 + np.exp(-np.clip(logit, -500, 500))) - outcomes)
        return float(value), slope + 2 * ridge * weights

    # Platt's own correction: never certain, however one-sided the sample.
    share = float(np.clip((outcomes.sum() + 1) / (len(outcomes) + 2), 1e-6, 1 - 1e-6))
    start = np.append(np.full(opinions.shape[1], 0.1), np.log(share / (1 - share)))
    bounds = [(0.0, 20.0)] * opinions.shape[1] + [(-10.0, 10.0)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    weights = found[:-1] / scales
    return Calibration(
        kind="platt",
        weights=tuple(map(float, weights)),
        bias=float(found[-1] - weights @ centers),
    )


def _with_steps(logistic: Calibration, opinions: Floats, outcomes: Floats) -> Calibration:
    probabilities = logistic.probability(opinions)
    knots = isotonic(probabilities, outcomes)
    if len(knots) < 2:
        return logistic
    return Calibration(
        kind="isotonic", weights=logistic.weights, bias=logistic.bias, knots=tuple(knots)
    )


def isotonic(probabilities: Floats, outcomes: Floats) -> list[tuple[float, float]]:
    """(mean probability, share) of blocks of at least `MIN_BLOCK`, both rising.

    Pool adjacent violators (Ayer et al. 1955) over blocks instead of examples. Each share is pulled
    towards the mean by one example's weight, so that no block says 0 or 1.
    """
    mean = float(outcomes.mean())

    def share(block: list[float]) -> float:
        return (block[1] + mean) / (block[2] + 1)

    order = np.argsort(probabilities, kind="stable")
    blocks: list[list[float]] = []  # [sum of probabilities, sum of outcomes, count]
    for part in np.array_split(order, max(len(order) // MIN_BLOCK, 1)):
        blocks.append([float(probabilities[part].sum()), float(outcomes[part].sum()), len(part)])
        while len(blocks) > 1 and share(blocks[-2]) >= share(blocks[-1]):
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    return [(block[0] / block[2], share(block)) for block in blocks]
