"""Which differences between variants are real: paired by seed, corrected for looking often.

Owns the statistics of a tournament. A cell is one variant under one seed; the seed fixes the order
of the data and the first weights, so it moves all variants together, and differences are taken
within a seed. Trains nothing and draws nothing.

The test is the one of a randomized block design: variant and seed effects are taken out, what is
left is pooled over all variants, and a pair differs by `t = difference / sqrt(2 s^2 / seeds)` with
`(variants - 1)(seeds - 1)` degrees of freedom (Montgomery, "Design and Analysis of Experiments",
chapter 4). A paired t test of two variants alone has `seeds - 1` degrees of freedom: with three
seeds it needs t > 4.3 for one comparison and t > 30 for fifty. Pooling supposes that the variants
scatter alike; where they do not, a variant far noisier than the others is told apart too easily, so
both probabilities are given. Holm's correction holds the chance of even one false difference over
all pairs at 5 %.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Mean of `left` minus mean of `right` over the seeds that both have."""

    left: str
    right: str
    mean: float
    low: float
    high: float
    """95 % interval from the pooled scatter, not corrected for the number of pairs."""
    probability: float
    """Two-sided, pooled, after Holm's correction over all pairs."""
    probability_alone: float
    """Two-sided paired t test of these two alone, not corrected."""
    num_seeds: int

    @property
    def is_real(self) -> bool:
        return self.probability <= ALPHA

    def __str__(self) -> str:
        told = f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f}, p {self.probability:.3g})"
        if not self.is_real:
            return f"{self.left} and {self.right} are not told apart: {told}"
        better, worse = (self.left, self.right) if self.mean < 0 else (self.right, self.left)
        return f"{better} is better than {worse}: {told}"


def compare(losses: Mapping[str, Mapping[int, float]], *, alpha: float = ALPHA) -> list[Difference]:
    """All pairs of variants, from `variant -> seed -> loss`, best pairs' order as given.

    Only seeds that every variant has count: an unfinished row must not move the others. With fewer
    than two such seeds nothing can be told, and the list is empty. Losses that are not finite
    (a run that diverged) leave their variant out.
    """
    finite = {
        name: own for name, own in losses.items() if own and all(map(math.isfinite, own.values()))
    }
    seeds = sorted(set.intersection(*(set(own) for own in finite.values()))) if finite else []
    names = list(finite)
    if len(seeds) < 2 or len(names) < 2:
        return []
    table_VS = np.array([[finite[name][seed] for seed in seeds] for name in names])
    scatter, freedom = _residual(table_VS)
    error = math.sqrt(2 * scatter / len(seeds))
    reach = student_quantile(1 - alpha / 2, freedom) * error
    found = []
    for i, j in combinations(range(len(names)), 2):
        gaps = table_VS[i] - table_VS[j]
        mean = float(gaps.mean())
        found.append((i, j, mean, _two_sided(mean, error, freedom), _alone(gaps)))
    corrected = holm([pooled for *_, pooled, _ in found])
    return [
        Difference(
            left=names[i],
            right=names[j],
            mean=mean,
            low=mean - reach,
            high=mean + reach,
            probability=probability,
            probability_alone=alone,
            num_seeds=len(seeds),
        )
        for (i, j, mean, _, alone), probability in zip(found, corrected, strict=True)
    ]


def holm(probabilities: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given; never above 1."""
    order = sorted(range(len(probabilities)), key=probabilities.__getitem__)
    corrected, so_far = [0.0] * len(probabilities), 0.0
    for rank, position in enumerate(order):
        so_far = max(so_far, (len(order) - rank) * probabilities[position])
        corrected[position] = min(1.0, so_far)
    return corrected


def student_tail(t: float, freedom: int) -> float:
    """P(|T| > t) for whole degrees of freedom, exact (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    if freedom < 1:
        return 1.0
    angle = math.atan2(abs(t), math.sqrt(freedom))
    sine, cosine2 = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(1 + odd, freedom, 2):  # the terms of either series, cos^(k-1) and its factor
        total += term
        term *= cosine2 * k / (k + 1)
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return max(0.0, 1.0 - inside)


def student_quantile(probability: float, freedom: int) -> float:
    """Where Student's t reaches `probability` (above 0.5), by halving; infinite without freedom."""
    if freedom < 1:
        return math.inf
    low, high = 0.0, 1.0
    while student_tail(high, freedom) > 2 * (1 - probability):
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        if student_tail(middle, freedom) > 2 * (1 - probability):
            low = middle
        else:
            high = middle
    return high


def _residual(table_VS: Floats) -> tuple[float, int]:
    """Pooled variance left after variant and seed effects, and its degrees of freedom."""
    left_VS = (
        table_VS
        - table_VS.mean(axis=1, keepdims=True)
        - table_VS.mean(axis=0, keepdims=True)
        + table_VS.mean()
    )
    freedom = (table_VS.shape[0] - 1) * (table_VS.shape[1] - 1)
    return float((left_VS**2).sum() / freedom), freedom


def _alone(gaps: Floats) -> float:
    error = float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    return _two_sided(float(gaps.mean()), error, len(gaps) - 1)


def _two_sided(mean: float, error: float, freedom: int) -> float:
    if error == 0.0:  # identical in every seed, or apart by exactly the same in every seed
        return 1.0 if mean == 0.0 else 0.0
    return student_tail(mean / error, freedom)
