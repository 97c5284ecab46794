"""Fits the relevance model on replayed tasks: a linear floor, and LambdaMART as the candidate.

Owns sampling, both fits, and the choice between recipes by an inner split that is chronological
too. Never sees the held-out tasks and never judges: `gate` does, with code of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from twin.coding.features import FEATURES_VERSION
from twin.coding.replay import Replayed
from twin.specialists.relevance import Card, Linear, Matrix, RelevanceModel

MAX_SOURCES: Final = 100
"""The most promising sources of a task that become rows; of the rest a sample does."""
MAX_OTHERS: Final = 50
MAX_REST: Final = 15
"""Tests and documents are told apart by one feature; a few a task are enough to learn that."""
PROMISING: Final = ("text_rare", "window_rare", "rare_near", "touched_30", "path", "symbols_rare")

LINEAR_FEATURES: Final = (
    "text", "text_subject", "text_rare", "window_rare", "symbols_rare", "path", "stem_in_subject",
    "names_compound", "message_near", "rare_near", "rare_nearest", "subject_near", "chain_long",
    "touched_5", "touched_30", "since_touch_inverse", "is_source", "share_of_longest", "importers",
)  # fmt: skip
"""Few enough to be read, and to be fitted on a hundred tasks."""

TREES: Final = {
    "objective": "lambdarank",
    "num_leaves": 15,
    "feature_fraction": 0.4,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "lambdarank_truncation_level": 12,
    "max_bin": 63,
    "label_gain": [0, 1],
    "verbose": -1,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
}
"""Small, strongly regularised trees: with a few thousand tasks, larger ones learn the noise."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Rows:
    """Sampled rows of many tasks. `values` [rows, features]; `sizes` rows per task."""

    names: tuple[str, ...]
    values: Matrix
    is_target: NDArray[np.bool_]
    sizes: NDArray[np.int64]
    weights: NDArray[np.float64]
    """One per task."""

    @classmethod
    def of(cls, tasks: Sequence[Replayed], seed: int, weights: Sequence[float] = ()) -> "Rows":
        """Raises ValueError for no tasks at all."""
        if not tasks:
            raise ValueError("There is no task to learn from.")
        rng = np.random.default_rng(seed)
        chosen = [_sample(task, rng) for task in tasks]
        return cls(
            names=tasks[0].names,
            values=np.concatenate(
                [task.values[rows] for task, rows in zip(tasks, chosen, strict=True)]
            ),
            is_target=np.concatenate(
                [task.is_target[rows] for task, rows in zip(tasks, chosen, strict=True)]
            ),
            sizes=np.array([len(rows) for rows in chosen], np.int64),
            weights=np.array(weights or [1.0] * len(tasks)),
        )


def sampled(task: Replayed, seed: int) -> Replayed:
    """The task with the rows that learning needs: a tenth of the memory in a large repository."""
    chosen = _sample(task, np.random.default_rng(seed))
    return replace(
        task,
        paths=tuple(task.paths[row] for row in chosen),
        values=task.values[chosen],
        is_target=task.is_target[chosen],
    )


def _sample(task: Replayed, rng: np.random.Generator) -> NDArray[np.int64]:
    """Every target, the promising sources, and a sample of the rest."""
    column = {name: task.values[:, at] for at, name in enumerate(task.names)}
    sources = np.flatnonzero((column["is_source"] > 0) | task.is_target)
    rest = np.flatnonzero((column["is_source"] == 0) & ~task.is_target)
    if len(rest) > MAX_REST:
        rest = rng.choice(rest, MAX_REST, replace=False)
    if len(sources) > MAX_SOURCES + MAX_OTHERS:
        promise = np.sum([column[name][sources] for name in PROMISING], axis=0)
        order = np.argsort(-(promise + 100 * task.is_target[sources]), kind="stable")
        first = max(MAX_SOURCES, int(task.is_target.sum()))
        others = order[first:]
        others = rng.choice(others, min(MAX_OTHERS, len(others)), replace=False)
        sources = sources[np.concatenate([order[:first], others])]
    return np.sort(np.concatenate([sources, rest]))


def fit_linear(rows: Rows, card: Card, *, penalty: float = 1e-3) -> RelevanceModel:
    """Weights that maximise the likelihood of the targets under a softmax over each task's files.

    The conditional logit model (McFadden 1974), each target counting as one choice; L2 on weights
    of standardised features.
    """
    from scipy.optimize import minimize

    names: tuple[str, ...] = tuple(name for name in LINEAR_FEATURES if name in rows.names)
    columns = [rows.names.index(name) for name in names]
    values = rows.values[:, columns].astype(np.float64)
    spread = values.std(axis=0)
    spread[spread == 0] = 1.0
    values /= spread
    starts = np.concatenate([[0], np.cumsum(rows.sizes)[:-1]])
    task = np.repeat(np.arange(len(rows.sizes)), rows.sizes)
    targets = rows.is_target.astype(np.float64)
    per_task = np.add.reduceat(targets, starts)
    share = targets / np.maximum(per_task, 1)[task] * rows.weights[task]
    mass = np.where(per_task > 0, rows.weights, 0.0)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scores = values @ weights
        scores -= np.maximum.reduceat(scores, starts)[task]
        odds = np.exp(scores)
        total = np.add.reduceat(odds, starts)
        value = (mass * np.log(total)).sum() - share @ scores
        slope = values.T @ (odds / total[task] * mass[task] - share)
        count = max(mass.sum(), 1e-9)
        return (
            float(value / count + penalty * weights @ weights),
            slope / count + 2 * penalty * weights,
        )

    found = minimize(loss, np.zeros(len(names)), jac=True, method="L-BFGS-B")
    weights = dict(zip(names, map(float, found.x / spread), strict=True))
    return RelevanceModel(
        kind="linear",
        features=names,
        features_version=FEATURES_VERSION,
        card=card,
        linear=Linear(weights=weights),
    )


def fit_trees(
    rows: Rows,
    card: Card,
    *,
    rounds: int,
    learning_rate: float = 0.05,
    seed: int = 0,
    start: RelevanceModel | None = None,
    min_data_in_leaf: int = 40,
    progress: Progress | None = None,
) -> RelevanceModel:
    """LambdaMART (Burges 2010) over the rows; with `start`, further trees on top of that model's.

    Raises ValueError where `start` is linear or reads other features.
    """
    import lightgbm

    names = rows.names if start is None else start.features
    if start is not None and not (start.trees and start.fits(FEATURES_VERSION, rows.names)):
        raise ValueError("The model to start from has no trees or reads other features.")
    columns = [rows.names.index(name) for name in names]
    data = lightgbm.Dataset(
        rows.values[:, columns],
        rows.is_target.astype(np.int8),
        group=rows.sizes,
        weight=np.repeat(rows.weights, rows.sizes),
        free_raw_data=False,
    )

    def tell(environment: "lightgbm.callback.CallbackEnv") -> None:
        if progress is not None:
            progress("growing trees", environment.iteration + 1, environment.end_iteration)

    booster = lightgbm.train(
        {
            **TREES,
            "learning_rate": learning_rate,
            "seed": seed,
            "min_data_in_leaf": min_data_in_leaf,
        },
        data,
        rounds,
        init_model=None if start is None else lightgbm.Booster(model_str=start.trees),
        callbacks=[tell],
    )
    return RelevanceModel(
        kind="trees",
        features=names,
        features_version=FEATURES_VERSION,
        card=card,
        trees=booster.model_to_string(),
    )
