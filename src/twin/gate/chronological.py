"""Ranks held-out tasks with any scorer, one after the other, each at its own moment.

Owns the step from scores to ranks: every candidate takes part, ties are broken at random with a
fixed seed, so that a ranker which says nothing gets what chance gives. Sees rows that `replay` cut
at each task; fits nothing and imports nothing of `train`.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from twin.coding.replay import Replayed
from twin.gate.promote import BASELINE
from twin.records import RankedTask

Scorer = Callable[[Replayed], NDArray[np.float64]]
"""From the rows of one task to one score per file, the higher the better."""


def bm25(task: Replayed) -> NDArray[np.float64]:
    """The baseline: BM25 over the text of the sources; whatever is no source comes last."""
    column = {name: at for at, name in enumerate(task.names)}
    text = task.values[:, column["text"]].astype(np.float64)
    is_source: NDArray[np.bool_] = task.values[:, column["is_source"]] > 0
    return np.where(is_source, text, text - 10.0)


BASELINES: Mapping[str, Scorer] = {BASELINE: bm25}


def rank_tasks(
    tasks: Iterable[Replayed], scorers: Mapping[str, Scorer], *, seed: int = 0
) -> dict[str, list[RankedTask]]:
    """Per scorer, how it did on each task. Goes through `tasks` once, holding one at a time."""
    ranked: dict[str, list[RankedTask]] = {name: [] for name in scorers}
    for task in tasks:
        for name, scorer in scorers.items():
            ranked[name].append(rank(task, scorer(task), seed=seed))
    return ranked


def rank(task: Replayed, scores: NDArray[np.float64], *, seed: int = 0) -> RankedTask:
    """The ranks of the task's targets under `scores`."""
    salt = zlib.crc32(task.task.commit_id.encode())
    luck = np.random.default_rng([seed, salt]).random(len(scores))
    order = np.lexsort((luck, -scores))
    place = np.empty(len(scores), np.int64)
    place[order] = np.arange(1, len(scores) + 1)
    return RankedTask(
        repository=task.task.repository,
        commit_id=task.task.commit_id,
        time=task.task.time,
        num_candidates=len(scores),
        num_source_files=task.num_source_files,
        target_ranks=tuple(sorted(map(int, place[task.is_target]))),
    )
