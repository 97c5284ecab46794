"""Fits the router on what became of answers: which requests gain by the bigger model, and how sure
the small one is.

Owns the inner folds, the choice between recipes and the calibration; each is decided on examples
that the learners had not seen, inside the examples given. Never sees the held-out part and never
judges: `gate` does, with definitions of its own; the worth of a recipe is computed here anew.

Folds are cut so that they ask what service will ask: by time where traffic comes day after day, by
group where the next requests come from subjects that nobody has seen, by row where they are like
the past ones.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import numpy as np

from twin.records import RoutingExample
from twin.specialists.router_model import LEARNERS, Blend, Card, Learnt
from twin.train.calibrate import fit_calibration
from twin.train.router_rows import MIN_KNOWN, Floats, Ints, Learners, Mask, Rows, fit_learners

Folds = Literal["group", "time", "row"]
Progress = Callable[[str, int, int], None]

NUM_FOLDS: Final = 5
STUDENT: Final = 2.13
"""The 95 % point of Student's t with the four degrees of freedom that five folds leave."""
MIN_EXAMPLES: Final = 200
MIN_OF_A_KIND: Final = 20
"""Examples where the small model was right, and where it was wrong."""
MAX_EXAMPLES: Final = 20_000
"""The newest: what is older is another model's work, and a fit should not take an hour."""

RECIPES: Final[Mapping[str, tuple[float, ...]]] = {
    "shape and length": (1.0, 0.0, 0.0, 1.0),
    "shape and text": (1.0, 0.5, 0.5, 0.0),
    "shape, text and length": (1.0, 0.5, 0.5, 0.5),
}
"""Weights of the standardised gains of trees, words and characters, and of the logarithm of the
length. The first holds on subjects nobody has seen, and is taken unless another is clearly better
on the inner folds; docs/routing.md has what else was tried."""


def shortage(examples: Sequence[RoutingExample]) -> str:
    """What is missing to learn from these examples, as a sentence; empty where nothing is."""
    known = [example.weak for example in examples if example.weak is not None]
    if len(known) < MIN_EXAMPLES:
        return (
            f"{len(known)} requests with a known outcome of the small model are too few to learn "
            f"from; {MIN_EXAMPLES} are needed."
        )
    good = sum(value >= 0.5 for value in known)
    for count, what in ((good, "did"), (len(known) - good, "did not do")):
        if count < MIN_OF_A_KIND:
            return (
                f"Only {count} of {len(known)} answers of the small model {what}; "
                f"{MIN_OF_A_KIND} are needed to learn the difference."
            )
    return ""


def fit_router(
    examples: Sequence[RoutingExample],
    *,
    folds: Folds,
    seed: int = 0,
    progress: Progress | None = None,
) -> Learnt:
    """The learnt router, from examples oldest first.

    Raises ValueError where there are too few; `shortage` says of what.
    """
    missing = shortage(examples)
    if missing:
        raise ValueError(missing)
    examples = list(examples)[-MAX_EXAMPLES:]
    rows = Rows.of(examples)
    fold = cut(examples, folds, seed)
    opinions = _kept_back(rows, fold, seed, progress)
    gains = _gains(rows, opinions)
    inner = {name: _worths(_mixed(weights, opinions, rows), gains, fold)
             for name, weights in RECIPES.items()}  # fmt: skip
    recipe = _chosen(inner)
    if progress is not None:
        progress("fitting on everything", 0, 1)
    learners = fit_learners(rows, np.ones(len(rows), bool), seed)
    weak = rows.targets[:, 0]
    known = ~np.isnan(weak)
    calibration = fit_calibration(opinions[known, :, 0], weak[known], fold[known])
    return _assembled(
        learners,
        blend=_blend(RECIPES[recipe], opinions, rows, gains),
        calibration=calibration,
        card=Card(
            num_examples=len(rows),
            num_with_both=int((~np.isnan(rows.targets)).all(axis=1).sum()),
            recipe=recipe,
            inner={name: float(values.mean()) for name, values in inner.items()},
            folds=folds,
            calibration=calibration.kind,
        ),
        has_strong=_knows_strong(rows),
    )


def cut(examples: Sequence[RoutingExample], folds: Folds, seed: int) -> Ints:
    """[examples] the inner fold of each: whole groups, stretches of time, or rows by chance."""
    count = len(examples)
    if folds == "time":
        return np.arange(count) * NUM_FOLDS // count
    rng = np.random.default_rng([seed, zlib.crc32(b"router folds")])
    if folds == "row":
        return np.asarray(rng.permutation(count) % NUM_FOLDS, np.int64)
    names, which = np.unique([example.group for example in examples], return_inverse=True)
    return np.asarray((rng.permutation(len(names)) % NUM_FOLDS)[which], np.int64)


def _kept_back(rows: Rows, fold: Ints, seed: int, progress: Progress | None) -> Floats:
    """[examples, learners, 2] opinions of learners that did not see the example's fold."""
    opinions = np.zeros((len(rows), len(LEARNERS), 2))
    numbers = np.unique(fold)
    for done, number in enumerate(numbers):
        if progress is not None:
            progress("inner folds", done, len(numbers))
        theirs: Mask = fold == number
        opinions[theirs] = fit_learners(rows, ~theirs, seed).opinions(rows, theirs)
    return opinions


def _knows_strong(rows: Rows) -> bool:
    return bool((~np.isnan(rows.targets[:, 1])).sum() >= MIN_KNOWN)


def _gains(rows: Rows, opinions: Floats) -> Floats:
    """[examples] big answer less small one. Where enough is known of both only those count, else
    the unknown big answer is taken as its learners see it; nan where the small one is unknown."""
    gains = rows.targets[:, 1] - rows.targets[:, 0]
    if (~np.isnan(gains)).sum() >= MIN_KNOWN:
        return gains
    return np.where(np.isnan(gains), opinions[:, 0, 1] - rows.targets[:, 0], gains)


def _columns(opinions: Floats, rows: Rows) -> Floats:
    """[examples, learners + 1] the gain that each learner sees, and the length."""
    return np.column_stack([opinions[..., 1] - opinions[..., 0], rows.length])


def _scales(columns: Floats) -> tuple[Floats, Floats]:
    scales = columns.std(axis=0)
    return columns.mean(axis=0), np.where(scales > 1e-9, scales, 1.0)


def _mixed(weights: tuple[float, ...], opinions: Floats, rows: Rows) -> Floats:
    columns = _columns(opinions, rows)
    centers, scales = _scales(columns)
    return np.asarray((columns - centers) / scales @ np.asarray(weights), np.float64)


def _blend(weights: tuple[float, ...], opinions: Floats, rows: Rows, gains: Floats) -> Blend:
    """The recipe with its scales, and the line from its mixture to gains."""
    columns = _columns(opinions, rows)
    centers, scales = _scales(columns)
    mixed = (columns - centers) / scales @ np.asarray(weights)
    known = ~np.isnan(gains)
    spread = float(np.var(mixed[known]))
    slope = float(np.cov(mixed[known], gains[known])[0, 1] / spread) if spread > 0 else 0.0
    # A falling line would turn the router's order upside down on nothing but inner luck.
    slope = max(slope, 1e-3)
    return Blend(
        centers=tuple(map(float, centers)),
        scales=tuple(map(float, scales)),
        weights=weights,
        slope=slope,
        intercept=float(gains[known].mean() - slope * mixed[known].mean()),
    )


def _worths(scores: Floats, gains: Floats, fold: Ints) -> Floats:
    """[folds] the APGR that the order by `scores` reaches in each fold, by its own formula: one
    half and the mean of gain times place, over the mean gain of all folds, so that a fold without
    any gain does not count without bounds."""
    known = ~np.isnan(gains)
    total = abs(float(gains[known].mean())) or 1.0
    found = []
    for number in np.unique(fold):
        chosen = known & (fold == number)
        if chosen.sum() < 2:
            continue
        place = np.argsort(np.argsort(scores[chosen], kind="stable")) / (chosen.sum() - 1)
        found.append(0.5 + float((gains[chosen] * (place - 0.5)).mean()) / total)
    return np.array(found)


def _chosen(inner: Mapping[str, Floats]) -> str:
    """The first recipe, or the best of those that beat it beyond chance: by Student's t of the
    paired differences over the folds. One standard error, as for the relevance model, is passed by
    luck in one choice of five where the folds are five."""
    first = next(iter(inner))
    best, best_gain = first, 0.0
    for name, values in inner.items():
        gain = values - inner[first]
        error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else np.inf
        if gain.mean() > max(STUDENT * error, best_gain):
            best, best_gain = name, float(gain.mean())
    return best


def _assembled(learners: Learners, **parts: object) -> Learnt:
    return Learnt(
        trees=learners.trees(),
        words=learners.words,
        chars=learners.chars,
        **parts,  # type: ignore[arg-type]
    )
