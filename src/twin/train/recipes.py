"""Which relevance model to send to the gate: a few recipes, tried on an inner, later part.

Owns the recipes and the choice. The inner split is by time as well, so a recipe that only memorises
loses here. The shipped model is measured beside them but never sent: whether what was learnt is
better than it, the gate decides on tasks that nobody here has seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from twin.coding.replay import Replayed
from twin.specialists.relevance import Card, Floats, RelevanceModel
from twin.train.relevance import Progress, Rows, fit_linear, fit_trees

INNER_SHARE: Final = 0.2
MIN_TASKS: Final = 40
"""Below this a fit moves more by chance than by what it learnt."""

OWN_LEAF: Final = 30
"""Rows a leaf, fewer than for the shipped model: one repository has fewer tasks to average over."""

Recipe = Callable[[Rows, Card, RelevanceModel, int, Progress | None], RelevanceModel]


def _grown(rounds: int, learning_rate: float) -> Recipe:
    def fit(
        rows: Rows, card: Card, default: RelevanceModel, seed: int, progress: Progress | None
    ) -> RelevanceModel:
        return fit_trees(
            rows,
            card,
            rounds=rounds,
            learning_rate=learning_rate,
            seed=seed,
            start=default,
            min_data_in_leaf=OWN_LEAF,
            progress=progress,
        )

    return fit


RECIPES: Final[Mapping[str, Recipe]] = {
    "default + 40 trees": _grown(40, 0.03),
    "default + 120 trees": _grown(120, 0.03),
    "linear": lambda rows, card, _default, _seed, _progress: fit_linear(rows, card),
}
"""The first is taken unless another is clearly better: pooled over the inner parts (681 tasks) of
twelve public repositories it was the best of five, and the fifty inner tasks of one repository
cannot tell half a point from luck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The model that goes to the gate, and how it was chosen."""

    model: RelevanceModel
    recipe: str
    inner: dict[str, float]
    """Mean of recall@1, 5 and 10 of each recipe on the inner, later part; `default` among them."""


def fit_best(
    tasks: Sequence[Replayed],
    default: RelevanceModel,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Fitted:
    """Tries every recipe on the earlier tasks, judges it on the later ones, refits the best on all.

    Raises ValueError for fewer than `MIN_TASKS` tasks.
    """
    if len(tasks) < MIN_TASKS:
        raise ValueError(f"{len(tasks)} tasks are too few to learn from; {MIN_TASKS} are needed.")
    ordered = sorted(tasks, key=lambda task: task.task.time)
    cut = round(len(ordered) * (1 - INNER_SHARE))
    earlier, later = ordered[:cut], ordered[cut:]
    repositories = tuple(sorted({task.task.repository for task in tasks}))
    card = Card(trained_on=(*default.card.trained_on, *repositories), num_tasks=len(tasks))
    rows = Rows.of(earlier, seed, weights_of(earlier))
    inner = {"default": recalls(default, later)}
    for name, recipe in RECIPES.items():
        inner[name] = recalls(recipe(rows, card, default, seed, progress), later)
    best = _chosen(inner)
    everything = Rows.of(ordered, seed, weights_of(ordered))
    model = RECIPES[best](everything, card, default, seed, progress)
    means = {name: float(values.mean()) for name, values in inner.items()}
    return Fitted(model=model, recipe=best, inner=means)


def _chosen(inner: Mapping[str, Floats]) -> str:
    """The first recipe, or the best of those that beat it by more than one standard error of the
    paired difference (the one-standard-error rule, Breiman et al. 1984)."""
    first = next(iter(RECIPES))
    best, best_gain = first, 0.0
    for name in RECIPES:
        gain = inner[name] - inner[first]
        error = float(gain.std() / np.sqrt(len(gain)))
        if gain.mean() > max(error, best_gain):
            best, best_gain = name, float(gain.mean())
    return best


def weights_of(tasks: Sequence[Replayed]) -> list[float]:
    """How much each of one repository's tasks counts, oldest first: from 0.5 to 1.5 by age.

    What is asked next comes after all of these, and the latest resemble it most: they have as much
    history behind them.
    """
    count = max(len(tasks), 1)
    return [0.5 + at / count for at in range(len(tasks))]


def recalls(model: RelevanceModel, tasks: Sequence[Replayed]) -> Floats:
    """Per task the mean of recall@1, 5 and 10; ties go against the model."""
    found = []
    for task in tasks:
        scores = model.scores(task.names, task.values)
        ranks = np.array([(scores >= score).sum() for score in scores[task.is_target]])
        found.append(sum(float((ranks <= k).mean()) for k in (1, 5, 10)) / 3)
    return np.array(found)
