"""How good a router is: APGR, CPT and calibration error, as RouteLLM (arXiv 2406.18665) defines
the first two.

Owns the definitions; every figure of `twin train router` and of the bench is computed here. Knows
no router: it is given one score per request, the higher the rather the big model is asked.

**APGR**, the average performance gap recovered: thresholds at the score's ten-quantiles (eleven
points), at each the share of requests that goes to the big model and the accuracy that results; the
area between that curve and the small model's accuracy, divided by the area between the two models.
Chance gives 0.5. **CPT(p)**, the call-performance threshold: the share of requests that must go to
the big model to recover the share p of the gap. **Calibration error (ECE)**: examples sorted by
probability into 15 bins of equal size; the mean distance between a bin's mean probability and its
share of successes.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_THRESHOLDS: Final = 10
NUM_BINS: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What a router reaches at each threshold, from few calls of the big model to all."""

    share: Floats
    """Of requests that go to the big model, rising."""
    accuracy: Floats
    weak: float
    """The small model's accuracy alone."""
    strong: float

    @property
    def apgr(self) -> float:
        """nan where both models are equally good: there is no gap to recover."""
        width = float(self.share[-1] - self.share[0])
        gap = (self.strong - self.weak) * width
        if gap == 0:
            return float("nan")
        area = float(np.trapezoid(self.accuracy, self.share))
        return (area - self.weak * width) / gap

    def cpt(self, recovered: float) -> float:
        """The share of big-model calls at which `recovered` of the gap is recovered."""
        wanted = self.weak + recovered * (self.strong - self.weak)
        return float(np.interp(wanted, self.accuracy, self.share))


def curve(scores: Floats, weak: Floats, strong: Floats) -> Curve:
    """The curve of `scores` on requests whose answers were `weak` and `strong`, each in [0, 1].

    Raises ValueError for no requests.
    """
    if len(scores) == 0:
        raise ValueError("There is no request to route.")
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, NUM_THRESHOLDS + 1)))
    points = []
    for edge in edges:
        # The last threshold keeps every request with the small model.
        chosen = scores > edge if edge == edges[-1] else scores >= edge
        points.append((float(chosen.mean()), float(np.where(chosen, strong, weak).mean())))
    share, accuracy = np.array(points[::-1]).T
    if len(points) == 1:  # one score for all: the router can only ask one model for everything
        share = np.array([0.0, 1.0])
        accuracy = np.array([weak.mean(), strong.mean()])
    return Curve(
        share=share, accuracy=accuracy, weak=float(weak.mean()), strong=float(strong.mean())
    )


def calibration_error(probabilities: Floats, outcomes: Floats, bins: int = NUM_BINS) -> float:
    """The expected calibration error over `bins` bins of equal size; 0 for no examples.

    Of n examples of a perfectly calibrated probability it is about 0.8 sqrt(p (1 - p) bins / n) by
    chance alone: 0.02 for 4,000 of them.
    """
    order = np.argsort(probabilities, kind="stable")
    error = 0.0
    for part in np.array_split(order, min(bins, max(len(order), 1))):
        if len(part):
            distance = abs(float(probabilities[part].mean() - outcomes[part].mean()))
            error += distance * len(part) / len(order)
    return error


def places(scores: Floats) -> Floats:
    """Each request's place in [0, 1] by score, ties sharing theirs.

    The mean of gain times place is the area under the curve with a threshold at every request: so a
    router's worth is a mean over requests, and can be resampled like one.
    """
    if len(scores) == 0:
        return np.empty(0)
    distinct, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    after = np.cumsum(counts)
    del distinct
    middle: Floats = (after - counts / 2) / len(scores)
    return middle[which]
