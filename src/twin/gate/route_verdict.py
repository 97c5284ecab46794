"""Is a router better than another? Judged on later requests that neither was trained on.

Owns the rule for routers; figures are `gate.routing`'s, resampling is `gate.bootstrap`'s, promotion
`gate.promote`'s.

**What decides** where both tiers' answers are known of at least `MIN_PAIRED` requests: the accuracy
at equal cost, averaged over all shares of big-model calls. A request counts its gain times the
difference of its places in the two orders (`gate.routing.places`), so the mean is the difference of
the two areas under the curve: APGR times the gap. Where the big tier's answer is mostly unknown,
the squared error of the confidence decides. **Guard**: that error must not clearly grow either way.

Resampled are days of traffic, or whole subjects where the file has no times. As for localisation,
"better" needs the interval and a sign-flip test; the k-th look at the same requests is judged at
5 % / k.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from twin.config import FitConfig
from twin.gate.bootstrap import mean_interval, sign_flip_probability
from twin.gate.routing import calibration_error, curve, places
from twin.records import Decision, Interval, ModelVersion, RoutingExample, Verdict

Floats = NDArray[np.float64]

ALPHA: Final = 0.05
MIN_PAIRED: Final = 100
MIN_HOLDOUT: Final = 50
MIN_CLUSTERS: Final = 6
"""With fewer, even a win in each is no proof: 1 in 32 against one half of 5 %."""
ACCURACY: Final = "accuracy at equal cost"
ERROR: Final = "squared error of the confidence"
_DAY_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one router said of each held-out request."""

    gain: Floats
    confidence: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What became of the held-out requests."""

    weak: Floats
    """nan where nobody knows."""
    strong: Floats
    clusters: tuple[Hashable, ...]
    """Requests of one cluster are resampled together."""
    unit: str
    """What a cluster is, for people: days, subjects, requests."""

    @classmethod
    def of(cls, examples: Sequence[RoutingExample], *, by_row: bool = False) -> "Outcomes":
        """Clusters are days where every example has a time, else subjects, else single requests;
        with `by_row` single requests whatever there is, as where rows were drawn by chance."""

        def numbers(values: Iterable[float | None]) -> Floats:
            return np.array([np.nan if v is None else v for v in values], np.float64)

        times = [example.at for example in examples if example.at is not None]
        groups = [example.group for example in examples]
        clusters: tuple[Hashable, ...]
        if not by_row and examples and len(times) == len(examples):
            clusters, unit = tuple(int(at // _DAY_SECONDS) for at in times), "days"
        elif not by_row and all(groups):
            clusters, unit = tuple(groups), "subjects"
        else:
            clusters, unit = tuple(range(len(examples))), "requests"
        return cls(
            weak=numbers(example.weak for example in examples),
            strong=numbers(example.strong for example in examples),
            clusters=clusters,
            unit=unit,
        )

    @property
    def paired(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.weak) & ~np.isnan(self.strong)


def measure(told: Told, outcomes: Outcomes, fit: FitConfig) -> dict[str, object]:
    """Every figure that the command shows of one router; None where nothing can be said."""
    known, both = ~np.isnan(outcomes.weak), outcomes.paired
    figures: dict[str, object] = {"apgr": None, "cpt50": None, "cpt80": None, "ece": None}
    if both.sum() >= MIN_HOLDOUT:
        found = curve(told.gain[both], outcomes.weak[both], outcomes.strong[both])
        if found.strong > found.weak:
            figures |= {"apgr": found.apgr, "cpt50": found.cpt(0.5), "cpt80": found.cpt(0.8)}
            figures["apgr_interval"] = _apgr_interval(told, outcomes, fit, found.apgr)
    if known.any():
        error = (told.confidence - outcomes.weak)[known] ** 2
        figures["ece"] = calibration_error(told.confidence[known], outcomes.weak[known])
        figures["squared_error"] = float(error.mean())
    return figures


def _apgr_interval(
    told: Told, outcomes: Outcomes, fit: FitConfig, apgr: float
) -> tuple[float, float]:
    """The interval of the mean of gain times place, in units of the gap, around the APGR."""
    both = outcomes.paired
    gain = (outcomes.strong - outcomes.weak)[both]
    worth = gain * (places(told.gain[both]) - 0.5)
    interval = _interval(worth, _clusters(outcomes, both), fit, ALPHA)
    gap = float(gain.mean())
    return apgr + (interval.low - interval.value) / gap, apgr + (
        interval.high - interval.value
    ) / gap


def judge(
    candidate: str,
    opponent: str,
    ours: Told,
    theirs: Told,
    outcomes: Outcomes,
    *,
    fit: FitConfig,
    earlier_looks: float = 0.0,
) -> Verdict:
    """The verdict on `candidate` (a version id) against `opponent` (a version id or `rules`)."""
    metric, differences, clusters = _primary(ours, theirs, outcomes)
    interval = _interval(differences, clusters, fit, ALPHA)

    def verdict(decision: Decision, metric: str, interval: Interval, reason: str) -> Verdict:
        return Verdict(
            decision=decision,
            candidate=candidate,
            opponent=opponent,
            num_tasks=len(differences),
            metric=metric,
            difference=interval,
            reason=reason,
        )

    missing = _shortage(differences, clusters, outcomes.unit)
    if missing:
        return verdict("not enough data", metric, interval, missing)
    told = f"{candidate} against {opponent} on {len(differences)} held-out requests"
    known = ~np.isnan(outcomes.weak)
    errors = _error_saved(ours, theirs, outcomes)
    guard = _interval(errors, _clusters(outcomes, known), fit, ALPHA)
    if guard.high < 0:
        reason = f"{told}: {ERROR} grows by {_points(guard, -1)}."
        return verdict("worse", ERROR, guard, reason)
    if interval.high < 0:
        return verdict("worse", metric, interval, f"{told}: {metric} {_change(metric, interval)}.")
    alpha = ALPHA / (1 + earlier_looks)
    if _interval(differences, clusters, fit, alpha).low > 0 and _beats_chance(
        differences, clusters, fit, alpha
    ):
        return verdict("better", metric, interval, f"{told}: {metric} {_change(metric, interval)}.")
    reason = f"{told}: {metric} {_change(metric, interval)}, which may be chance"
    if interval.low > 0 and earlier_looks:
        reason += f" after {earlier_looks:.1f} earlier looks at these requests"
    return verdict("not enough data", metric, interval, reason + "; more requests will tell.")


def earlier_looks(versions: Iterable[ModelVersion], holdout: Sequence[RoutingExample]) -> float:
    """How many candidates were already judged on these requests, by the share each had seen. A
    request without a time is taken as seen."""
    if not holdout:
        return 0.0
    judged_at = [version.created_at for version in versions if version.status != "candidate"]
    seen = sum((one.at or 0.0) <= moment for moment in judged_at for one in holdout)
    return seen / len(holdout)


def _primary(
    ours: Told, theirs: Told, outcomes: Outcomes
) -> tuple[str, Floats, Sequence[Hashable]]:
    both = outcomes.paired
    if both.sum() < MIN_PAIRED:
        known = ~np.isnan(outcomes.weak)
        return ERROR, _error_saved(ours, theirs, outcomes), _clusters(outcomes, known)
    gain = (outcomes.strong - outcomes.weak)[both]
    moved = places(ours.gain[both]) - places(theirs.gain[both])
    return ACCURACY, gain * moved, _clusters(outcomes, both)


def _error_saved(ours: Told, theirs: Told, outcomes: Outcomes) -> Floats:
    known = ~np.isnan(outcomes.weak)
    weak = outcomes.weak[known]
    before, after = (theirs.confidence[known] - weak) ** 2, (ours.confidence[known] - weak) ** 2
    return np.asarray(before - after, np.float64)


def _clusters(outcomes: Outcomes, chosen: NDArray[np.bool_]) -> Sequence[Hashable]:
    return [cluster for cluster, own in zip(outcomes.clusters, chosen, strict=True) if own]


def _interval(
    values: Floats, clusters: Sequence[Hashable], fit: FitConfig, alpha: float
) -> Interval:
    return mean_interval(
        values,
        [0] * len(values),
        clusters,
        alpha=alpha,
        rounds=fit.bootstrap_rounds,
        seed=fit.seed,
    )


def _beats_chance(
    values: Floats, clusters: Sequence[Hashable], fit: FitConfig, alpha: float
) -> bool:
    chance = sign_flip_probability(
        values,
        [0] * len(values),
        clusters,
        below=alpha / 2,
        rounds=fit.bootstrap_rounds,
        seed=fit.seed,
    )
    return chance <= alpha / 2


def _shortage(values: Floats, clusters: Sequence[Hashable], unit: str) -> str:
    if len(values) < MIN_HOLDOUT:
        return (
            f"Only {len(values)} held-out requests with a known outcome; {MIN_HOLDOUT} are needed "
            "to tell a gain from chance. Try again when more are recorded."
        )
    if len(set(clusters)) < MIN_CLUSTERS:
        return (
            f"The {len(values)} held-out requests come from only {len(set(clusters))} {unit}; "
            f"{MIN_CLUSTERS} are needed to tell a gain from chance. Try again with more."
        )
    return ""


def _change(metric: str, interval: Interval) -> str:
    return f"{'falls' if metric == ERROR else 'changes'} by {_points(interval)}"


def _points(interval: Interval, sign: int = 1) -> str:
    """`+9.2 points (95 % interval +5.1 to +13.2)`."""
    low, high = sorted((sign * 100 * interval.low, sign * 100 * interval.high))
    return f"{sign * 100 * interval.value:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
