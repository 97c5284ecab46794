"""How far a mean may be off: a cluster bootstrap and a sign-flip test, vectorised and seeded.

Owns resampling. What a difference *means* is `gate.verdict`'s business.

Resampled are days of work, not single tasks, because commits of one day are often one change: on
four public repositories (420 held-out tasks) the variance of the mean paired difference by days
was 1.0 to 1.3 times the variance by tasks. Where several repositories are pooled, days are drawn
within each repository, so that a large one cannot crowd out a small one.

The interval is the percentile interval with expanded tails (Hesterberg 2015, "What Teachers Should
Know About the Bootstrap", section 5.3): plain percentiles are too narrow when clusters are few.
In 2,000 simulated nulls of 30 tasks they called 3.6 % better; the expanded ones 2.5 %.
"""

from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from twin.records import Interval

Floats = npt.NDArray[np.float64]
_NORMAL = NormalDist()
_CELLS_AT_ONCE = 1_000_000  # 8 MB of draws; larger blocks leave the cache and get slower
_MAX_ROUNDS = 100_000  # below 0.0002 the bound is the outermost resample; the sign flip still holds


def mean_interval(
    values: Floats,
    strata: Sequence[Hashable],
    clusters: Sequence[Hashable],
    *,
    alpha: float = 0.05,
    rounds: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean of `values` with its `1 - alpha` interval.

    `values` must lie in [-1, 1] (scores or their differences); clusters are drawn whole, within
    their stratum. With no degree of freedom left, nothing is known: the interval is [-1, 1].
    """
    if len(values) == 0:
        return Interval(value=0.0, low=-1.0, high=1.0)
    mean = float(values.mean())
    groups = _grouped(values, strata, clusters)
    num_clusters = sum(len(sums) for sums, _ in groups)
    freedom = num_clusters - len(groups)
    if freedom < 1:
        return Interval(value=mean, low=-1.0, high=1.0)
    tail = _expanded_tail(alpha / 2, num_clusters, freedom)
    draws = _resampled_means(groups, _enough_rounds(rounds, tail), np.random.default_rng(seed))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value=mean, low=float(max(low, -1.0)), high=float(min(high, 1.0)))


def sign_flip_probability(
    differences: Floats,
    strata: Sequence[Hashable],
    clusters: Sequence[Hashable],
    *,
    below: float,
    rounds: int = 2000,
    seed: int = 0,
) -> float:
    """How often equal rankers would show a mean at least this high (one-sided).

    Under "no difference" each cluster's sum is as likely with either sign, so the test is exact
    however few clusters differ: five wins out of five are 1 in 32, whatever the bootstrap says.
    `below` is the level that the answer will be compared with; it sets the number of rounds.
    """
    sums = np.concatenate([own for own, _ in _grouped(differences, strata, clusters)])
    sums = sums[sums != 0]
    observed = sums.sum()
    rng, reached, total = np.random.default_rng(seed), 0, _enough_rounds(rounds, below)
    chunk = max(1, _CELLS_AT_ONCE // max(len(sums), 1))
    for start in range(0, total, chunk):
        size = min(chunk, total - start)
        signs = rng.integers(0, 2, size=(size, len(sums)), dtype=np.int8) * 2 - 1
        reached += int((signs @ sums >= observed - 1e-12).sum())
    return (1 + reached) / (1 + total)


def _grouped(
    values: Floats, strata: Sequence[Hashable], clusters: Sequence[Hashable]
) -> list[tuple[Floats, Floats]]:
    """For each stratum, its clusters' sums and sizes: all that a resample of the mean needs."""
    found: dict[Hashable, dict[Hashable, tuple[float, int]]] = {}
    for value, stratum, cluster in zip(values.tolist(), strata, clusters, strict=True):
        own = found.setdefault(stratum, {})
        total, count = own.get(cluster, (0.0, 0))
        own[cluster] = (total + value, count + 1)
    return [
        (
            np.array([total for total, _ in own.values()], dtype=np.float64),
            np.array([count for _, count in own.values()], dtype=np.float64),
        )
        for own in found.values()
    ]


def _resampled_means(
    groups: list[tuple[Floats, Floats]], rounds: int, rng: np.random.Generator
) -> Floats:
    means = np.empty(rounds)
    chunk = max(1, _CELLS_AT_ONCE // max(len(sums) for sums, _ in groups))
    for start in range(0, rounds, chunk):
        size = min(chunk, rounds - start)
        total, count = np.zeros(size), np.zeros(size)
        for sums, sizes in groups:
            # Indices and a gather: eight times faster than multinomial counts and a product.
            drawn = rng.integers(0, len(sums), size=(size, len(sums)), dtype=np.int32)
            total += sums[drawn].sum(axis=1)
            count += sizes[drawn].sum(axis=1)
        means[start : start + size] = total / count
    return means


def _enough_rounds(rounds: int, tail: float) -> int:
    """At least 20 resamples beyond the bound, or the bound itself is noise."""
    # With one or two degrees of freedom the tail is 0 in floating point.
    return max(rounds, int(np.ceil(20 / max(tail, 20 / _MAX_ROUNDS))))


def _expanded_tail(tail: float, num_clusters: int, freedom: int) -> float:
    """The tail at which a percentile interval is as wide as Student's t with `freedom` would be."""
    stretch = (num_clusters / freedom) ** 0.5
    return _NORMAL.cdf(stretch * _student_quantile(tail, freedom))


def _student_quantile(probability: float, freedom: int) -> float:
    """Student's t quantile by its Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5).

    Within 0.1 % from 10 degrees of freedom on; the verdict asks for at least that many days.
    """
    z, v = _NORMAL.inv_cdf(probability), freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
