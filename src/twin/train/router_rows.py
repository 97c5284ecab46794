"""What the router learns from, as matrices, and the learners: trees and two ridge regressions.

Owns the way from examples to numbers and each learner's fit. How their opinions are put together is
`train.router`'s business. Rows keep the examples' order; every fit is told which rows it may see.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from twin.records import RoutingExample
from twin.specialists.router_features import BUCKETS, LENGTH, see
from twin.specialists.router_model import Array, Grams
from twin.specialists.router_trees import Trees
from twin.specialists.trees import Forest

if TYPE_CHECKING:
    import lightgbm

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Sparse = Any
"""scipy.sparse.csr_matrix, which publishes no types."""

TREES: Final = {
    "objective": "regression",
    "num_leaves": 8,
    "max_depth": 6,
    "learning_rate": 0.03,
    "feature_fraction": 0.3,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "max_bin": 63,
    "verbose": -1,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
}
"""Small trees, each on a third of the columns: with twenty subjects to learn from, larger ones
learn the subjects."""
ROUNDS: Final = 150
WORD_PENALTY: Final = 10.0
CHAR_PENALTY: Final = 3.0
MIN_KNOWN: Final = 50
"""Judged answers of a tier below which nothing is learnt of it but its mean."""

Progress = Any


@dataclass(frozen=True, slots=True)
class Rows:
    """`shape` [examples, COLUMNS]; `words` and `chars` [examples, BUCKETS], 1 + log counts;
    `targets` [examples, 2], nan where nobody knows."""

    shape: Floats
    words: Sparse
    chars: Sparse
    targets: Floats

    @classmethod
    def of(cls, examples: Sequence[RoutingExample]) -> "Rows":
        seen = [see(example.question) for example in examples]
        known = [[_number(example.weak), _number(example.strong)] for example in examples]
        return cls(
            shape=np.array([one.row for one in seen]),
            words=_counted([one.words for one in seen]),
            chars=_counted([one.chars for one in seen]),
            targets=np.array(known, np.float64).reshape(-1, 2),
        )

    @property
    def length(self) -> Floats:
        return self.shape[:, LENGTH]

    def __len__(self) -> int:
        return len(self.targets)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _counted(buckets: Sequence[Ints]) -> Sparse:
    from scipy.sparse import csr_matrix

    pairs = [np.unique(one, return_counts=True) for one in buckets]
    ends = np.cumsum([0, *(len(distinct) for distinct, _ in pairs)])
    values = np.log1p(np.concatenate([count for _, count in pairs]).astype(np.float64))
    columns = np.concatenate([distinct for distinct, _ in pairs])
    return csr_matrix((values, columns, ends), shape=(len(buckets), BUCKETS))


@dataclass(frozen=True, slots=True)
class Learners:
    """The three learners of both targets, fitted."""

    boosters: tuple["lightgbm.Booster | float", "lightgbm.Booster | float"]
    """A number where a tier's answers are too few to learn more than their mean."""
    words: Grams
    chars: Grams

    def opinions(self, rows: Rows, which: Mask) -> Floats:
        """[chosen rows, learners, 2]"""
        shape = rows.shape[which]
        trees = [
            np.full(len(shape), one)
            if isinstance(one, float)
            else np.asarray(one.predict(shape, num_threads=1), np.float64)
            for one in self.boosters
        ]
        parts = [np.column_stack(trees)]
        parts += [
            _predicted(self.words, rows.words[which]),
            _predicted(self.chars, rows.chars[which]),
        ]
        return np.stack(parts, axis=1)

    def trees(self) -> tuple[Trees, Trees]:
        """As the router evaluates them."""
        first, second = (
            Trees.constant(one)
            if isinstance(one, float)
            else Trees.of(Forest.parse(one.model_to_string()))
            for one in self.boosters
        )
        return first, second


def fit_learners(rows: Rows, which: Mask, seed: int) -> Learners:
    """All learners on the chosen rows alone."""
    weak, strong = (_fit_trees(rows, which, target, seed) for target in (0, 1))
    return Learners(
        boosters=(weak, strong),
        words=_fit_grams(rows.words, rows.targets, which, WORD_PENALTY),
        chars=_fit_grams(rows.chars, rows.targets, which, CHAR_PENALTY),
    )


def _fit_trees(rows: Rows, which: Mask, target: int, seed: int) -> "lightgbm.Booster | float":
    import lightgbm

    known = which & ~np.isnan(rows.targets[:, target])
    outcomes = rows.targets[known, target]
    if len(outcomes) < MIN_KNOWN or np.ptp(outcomes) == 0:
        return _mean(outcomes)
    leaf = int(np.clip(len(outcomes) // 50, 5, 40))
    data = lightgbm.Dataset(rows.shape[known], outcomes)
    return lightgbm.train({**TREES, "min_data_in_leaf": leaf, "seed": seed}, data, ROUNDS)


def _mean(outcomes: Floats) -> float:
    """Of what is known, pulled towards one half by one example of each kind."""
    return float((outcomes.sum() + 1) / (len(outcomes) + 2))


def _fit_grams(counts: Sparse, targets: Floats, which: Mask, penalty: float) -> Grams:
    """Ridge regression on TF-IDF rows of unit length, for each target on what is known of it."""
    from scipy.sparse.linalg import lsqr

    num_rows = int(which.sum())
    seen_in = np.bincount(counts[which].indices, minlength=BUCKETS)
    # A bucket met once says nothing that a second text could confirm.
    idf = np.where(seen_in >= 2, np.log((1 + num_rows) / (1 + seen_in)) + 1, 0.0)
    used = np.flatnonzero(idf)
    weights, means = np.zeros((2, BUCKETS)), [0.0, 0.0]
    for target in (0, 1):
        known = which & ~np.isnan(targets[:, target])
        outcomes = targets[known, target]
        means[target] = _mean(outcomes)
        if len(used) == 0 or len(outcomes) < MIN_KNOWN or np.ptp(outcomes) == 0:
            continue
        rows = _weighted(counts[known], idf)[:, used]
        weights[target, used] = lsqr(
            rows, outcomes - means[target], damp=float(np.sqrt(penalty)), iter_lim=60
        )[0]
    return Grams(
        idf=Array.of(idf, "<f4"),
        weights=Array.of(weights, "<f4"),
        means=(means[0], means[1]),
    )


def _weighted(counts: Sparse, idf: Floats) -> Sparse:
    from scipy.sparse import diags

    rows = counts @ diags(idf)
    lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    return (diags(1 / np.where(lengths > 0, lengths, 1.0)) @ rows).tocsr()


def _predicted(grams: Grams, counts: Sparse) -> Floats:
    rows = _weighted(counts, np.asarray(grams.idf.read(), np.float64))
    weights = np.asarray(grams.weights.read(), np.float64)
    return np.asarray(rows @ weights.T + np.asarray(grams.means), np.float64)
