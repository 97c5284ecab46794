"""Is a candidate better than an opponent? Three answers: better, worse, not enough data.

Owns the rule of decision. Does not rank, does not know which opponents matter and promotes nothing
(`gate.promote` does).

**What decides**: the mean of recall@1, @5 and @10 (`metrics.PRIMARY`). MRR sees only the first
target, but the second and third file of a change are the hard part; recall@5 alone is blind where
it is full (small repositories) and to gains at rank 1. On four public repositories the mean told a
real difference from chance with a larger t than recall@5 in each of them (8.0 / 8.9 / 6.9 / 4.8
against 6.9 / 8.6 / 5.8 / 3.0).

**When**: the interval of the paired difference lies above zero *and* a sign-flip test agrees *and*
no guarded metric drops clearly (its own 95 % interval below zero). Either test alone errs
somewhere: the bootstrap where few tasks differ, the sign flip where wins are many and small and
losses rare and large. "Worse" needs only the interval, or one guard: refusing costs nothing.

**Looking again**: every further candidate judged on the same tasks is another chance to be lucky.
The k-th look is judged at 5 % / k; `earlier_looks` counts looks by how much of the holdout they had
already seen, so that the level recovers as new work arrives. docs/gate.md has the figures.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from twin.config import FitConfig
from twin.gate.bootstrap import Floats, mean_interval, sign_flip_probability
from twin.gate.metrics import PRIMARY, scores
from twin.records import Decision, Interval, ModelVersion, RankedTask, Verdict

GUARDED = ("recall@5", "recall@10", "mrr", "all@5")
ALPHA = 0.05
MIN_DAYS = 11
"""Fewer days of work give no usable variance between days, however many tasks they hold."""
_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTasks:
    """Two rankers on the same tasks, in the same order."""

    candidate: tuple[RankedTask, ...]
    opponent: tuple[RankedTask, ...]

    @property
    def strata(self) -> list[str]:
        return [task.repository for task in self.candidate]

    @property
    def days(self) -> list[int]:
        return [task.time // _DAY_SECONDS for task in self.candidate]

    @property
    def num_days(self) -> int:
        return len(set(zip(self.strata, self.days, strict=True)))

    def differences(self, metric: str) -> Floats:
        """Candidate minus opponent, task by task."""
        return scores(self.candidate, metric) - scores(self.opponent, metric)


def pair(candidate: Iterable[RankedTask], opponent: Iterable[RankedTask]) -> PairedTasks:
    """Puts both rankers' results side by side, oldest task first.

    Raises ValueError where they were not judged on the same tasks with the same number of targets:
    a ranker that skipped its hard tasks must not win by it.
    """
    ours = {(task.repository, task.commit_id): task for task in candidate}
    theirs = {(task.repository, task.commit_id): task for task in opponent}
    if ours.keys() != theirs.keys():
        odd = sorted(ours.keys() ^ theirs.keys())
        raise ValueError(
            f"Both rankers must be judged on the same tasks; {len(odd)} differ, such as "
            f"{odd[0][1]} of {odd[0][0]}."
        )
    keys = sorted(ours, key=lambda key: (ours[key].time, key))
    for key in keys:
        if not ours[key].target_ranks:
            raise ValueError(f"Task {key[1]} of {key[0]} has no target, so it cannot be judged.")
        if len(ours[key].target_ranks) != len(theirs[key].target_ranks):
            raise ValueError(f"Task {key[1]} of {key[0]} has another number of targets in each.")
    return PairedTasks(
        candidate=tuple(ours[key] for key in keys), opponent=tuple(theirs[key] for key in keys)
    )


def difference(
    pairs: PairedTasks, metric: str, *, fit: FitConfig, alpha: float = ALPHA
) -> Interval:
    """The mean paired difference of one metric, with its interval."""
    return mean_interval(
        pairs.differences(metric),
        pairs.strata,
        pairs.days,
        alpha=alpha,
        rounds=fit.bootstrap_rounds,
        seed=fit.seed,
    )


def judge(
    candidate: str,
    opponent: str,
    candidate_tasks: Iterable[RankedTask],
    opponent_tasks: Iterable[RankedTask],
    *,
    fit: FitConfig,
    earlier_looks: float = 0.0,
) -> Verdict:
    """The verdict on `candidate` (a version id) against `opponent` (a version id, `bm25` ...).

    The interval in the verdict is always the 95 % one; with earlier looks the *decision* uses a
    stricter level and the reason says so.
    """
    pairs = pair(candidate_tasks, opponent_tasks)
    decision, metric, interval, reason = _decide(pairs, candidate, opponent, fit, earlier_looks)
    return Verdict(
        decision=decision,
        candidate=candidate,
        opponent=opponent,
        num_tasks=len(pairs.candidate),
        metric=metric,
        difference=interval,
        reason=reason,
    )


def earlier_looks(versions: Iterable[ModelVersion], holdout: Sequence[RankedTask]) -> float:
    """How many candidates were already judged on these tasks, by the share of them each had seen.

    A version made at time T can have been judged on any task before T: half-new holdouts count
    half. `versions` are the model's other versions; those never judged (candidates) do not count.
    """
    if not holdout:
        return 0.0
    judged_at = [version.created_at for version in versions if version.status != "candidate"]
    seen = sum(task.time <= moment for moment in judged_at for task in holdout)
    return seen / len(holdout)


def _decide(
    pairs: PairedTasks, candidate: str, opponent: str, fit: FitConfig, looks: float
) -> tuple[Decision, str, Interval, str]:
    interval = difference(pairs, PRIMARY, fit=fit)
    shortage = _shortage(pairs, fit)
    if shortage:
        return "not enough data", PRIMARY, interval, shortage
    told = f"{candidate} against {opponent} on {len(pairs.candidate)} later tasks"
    for metric in GUARDED:
        guarded = difference(pairs, metric, fit=fit)
        if guarded.high < 0:
            return "worse", metric, guarded, f"{told}: {metric} drops by {_points(guarded)}."
    if interval.high < 0:
        return "worse", PRIMARY, interval, f"{told}: {PRIMARY} drops by {_points(interval)}."
    alpha = ALPHA / (1 + looks)
    if _is_better(pairs, fit, alpha):
        return "better", PRIMARY, interval, f"{told}: {PRIMARY} gains {_points(interval)}."
    known = f"{told}: {PRIMARY} differs by {_points(interval)}, which may be chance"
    if interval.low > 0 and looks:
        known += f" after {looks:.1f} earlier looks at these tasks"
    return "not enough data", PRIMARY, interval, known + "; more commits will tell."


def _shortage(pairs: PairedTasks, fit: FitConfig) -> str:
    """Why no verdict is possible, empty where one is."""
    num_tasks = len(pairs.candidate)
    if num_tasks < fit.min_holdout_tasks:
        return (
            f"Only {num_tasks} later tasks; {fit.min_holdout_tasks} are needed to tell a gain from "
            "chance. Try again when there are more commits."
        )
    if pairs.num_days < MIN_DAYS:
        return (
            f"The {num_tasks} later tasks come from only {pairs.num_days} days of work; "
            f"{MIN_DAYS} are needed to tell a gain from chance. Try again in some days."
        )
    return ""


def _is_better(pairs: PairedTasks, fit: FitConfig, alpha: float) -> bool:
    if difference(pairs, PRIMARY, fit=fit, alpha=alpha).low <= 0:
        return False
    chance = sign_flip_probability(
        pairs.differences(PRIMARY),
        pairs.strata,
        pairs.days,
        below=alpha / 2,
        rounds=fit.bootstrap_rounds,
        seed=fit.seed,
    )
    return chance <= alpha / 2


def _points(interval: Interval) -> str:
    """`+9.2 points (95 % interval +5.1 to +13.2)`."""
    value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
    return f"{value:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
