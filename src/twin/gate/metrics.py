"""How good a ranking is: recall@k, MRR, all@k and hit@k of one task, and their means over tasks.

Owns the definitions; every figure of the gate, the report and the benches is computed here. Knows
nothing of rankers, of statistics or of where the tasks come from. All figures lie in [0, 1].
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twin.records import RankedTask

Metric = Callable[[RankedTask], float]
Floats = npt.NDArray[np.float64]

LARGE_SOURCE_FILES = 50
"""From here on a repository counts as large: below it, ten guesses find nearly every file."""


def recall_at(k: int) -> Metric:
    """The share of a task's targets among the first `k` files."""

    def recall(task: RankedTask) -> float:
        return sum(rank <= k for rank in task.target_ranks) / len(task.target_ranks)

    return recall


def all_at(k: int) -> Metric:
    """1 where every target is among the first `k` files, else 0 (accuracy@k of Agentless)."""
    return lambda task: float(max(task.target_ranks) <= k)


def hit_at(k: int) -> Metric:
    """1 where at least one target is among the first `k` files, else 0."""
    return lambda task: float(min(task.target_ranks) <= k)


def reciprocal_rank(task: RankedTask) -> float:
    """1 / rank of the best-placed target; its mean is the MRR."""
    return 1.0 / min(task.target_ranks)


def mean_recall(task: RankedTask) -> float:
    """The mean of recall@1, @5 and @10: the metric that decides (`gate.verdict` says why)."""
    return sum(recall_at(k)(task) for k in (1, 5, 10)) / 3


PRIMARY = "recall@1/5/10"
METRICS: dict[str, Metric] = {
    PRIMARY: mean_recall,
    "recall@1": recall_at(1),
    "recall@5": recall_at(5),
    "recall@10": recall_at(10),
    "mrr": reciprocal_rank,
    "all@5": all_at(5),
    "all@10": all_at(10),
    "hit@1": hit_at(1),
    "hit@5": hit_at(5),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """One ranker's figures: over everything, over large repositories, and for each repository."""

    num_tasks: int
    pooled: dict[str, float]
    num_large_tasks: int
    large: dict[str, float]
    """Empty where no task comes from a repository that was large at that moment."""
    repositories: dict[str, dict[str, float]]


def scores(tasks: Sequence[RankedTask], metric: str) -> Floats:
    """The metric of every task, in order."""
    score = METRICS[metric]
    return np.array([score(task) for task in tasks], dtype=np.float64)


def measure(tasks: Sequence[RankedTask]) -> dict[str, float]:
    """The mean of every metric; empty where there are no tasks."""
    if not tasks:
        return {}
    return {metric: float(scores(tasks, metric).mean()) for metric in METRICS}


def breakdown(tasks: Sequence[RankedTask]) -> Breakdown:
    """Every figure that the report and the benches show of one ranker."""
    large = [task for task in tasks if task.num_source_files >= LARGE_SOURCE_FILES]
    return Breakdown(
        num_tasks=len(tasks),
        pooled=measure(tasks),
        num_large_tasks=len(large),
        large=measure(large),
        repositories={name: measure(own) for name, own in by_repository(tasks).items()},
    )


def by_repository(tasks: Iterable[RankedTask]) -> dict[str, list[RankedTask]]:
    """The tasks of each repository, repositories by name, tasks in their order."""
    groups: dict[str, list[RankedTask]] = {}
    for task in tasks:
        groups.setdefault(task.repository, []).append(task)
    return dict(sorted(groups.items()))


def recall_curve(tasks: Sequence[RankedTask], up_to: int) -> tuple[float, ...]:
    """Mean recall@1 .. recall@`up_to`."""
    if not tasks:
        return (0.0,) * up_to
    return tuple(float(np.mean([recall_at(k)(t) for t in tasks])) for k in range(1, up_to + 1))


def chance_curve(tasks: Sequence[RankedTask], up_to: int) -> tuple[float, ...]:
    """What a random order would reach: k of n candidates hold k/n of the targets on average."""
    if not tasks:
        return (0.0,) * up_to
    sizes = np.array([max(task.num_candidates, 1) for task in tasks], dtype=np.float64)
    return tuple(float(np.minimum(k / sizes, 1.0).mean()) for k in range(1, up_to + 1))
