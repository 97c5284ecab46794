"""Asks every past task again, at the moment when it was asked: the rows that rankers learn from.

For each task the scene is the tree at its parent and the timeline is cut at its commit, so a row
holds nothing that came later. Training and gating both read these rows; serving makes its own by
the same `features`. Judges nothing and fits nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from twin.coding.corpus import Corpus, Scene
from twin.coding.digest import digests
from twin.coding.features import Matrix, Moment, Question, features
from twin.coding.index import Cache, Contents
from twin.coding.languages import language_of
from twin.coding.progress import Progress, named
from twin.coding.timeline import Timeline
from twin.records import Task

MAX_BLOBS: Final = 20_000
"""Distinct contents held at a time: about 1 GB. Longer histories are replayed in several parts."""

Trees = Callable[[str], Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One task with a row of features per candidate file."""

    task: Task
    names: tuple[str, ...]
    paths: tuple[str, ...]
    values: Matrix
    """[files, features]"""
    is_target: NDArray[np.bool_]
    num_source_files: int


def replay(
    repository: Contents,
    trees: Trees,
    cache: Cache,
    timeline: Timeline,
    tasks: Sequence[Task],
    *,
    candidate: Callable[[str], bool] = lambda path: language_of(path) is not None,
    max_blobs: int = MAX_BLOBS,
    progress: Progress | None = None,
) -> Iterator[Replayed]:
    """The rows of every task whose commit the timeline knows and whose targets are candidates.

    Holds the contents of a bounded part of the history at a time; yields in the order of `tasks`.
    """
    done = 0
    for part in _parts(tasks, trees, candidate, max_blobs):
        wanted = {
            blob: language_of(path) or "" for files in part.values() for path, blob in files.items()
        }
        corpus = Corpus(digests(repository, cache, wanted, named(progress, "reading files")))
        for at, files in part.items():
            row = replay_one(corpus, files, timeline, tasks[at])
            done += 1
            if progress is not None:
                progress("replaying tasks", done, len(tasks))
            if row is not None:
                yield row


def replay_one(
    corpus: Corpus, files: Mapping[str, str], timeline: Timeline, task: Task
) -> Replayed | None:
    """The rows of one task, None where nothing could be right: a target is no candidate."""
    position = timeline.position.get(task.commit_id)
    if position is None or not all(target in files for target in task.targets):
        return None
    scene = Scene(corpus, files)
    moment = Moment(position=position, time=task.time, author=int(timeline.authors[position]))
    names, values = features(Question(task.query), scene, timeline, moment)
    targets = set(task.targets)
    return Replayed(
        task=task,
        names=names,
        paths=tuple(scene.paths),
        values=values,
        is_target=np.array([path in targets for path in scene.paths], bool),
        num_source_files=scene.num_source_files,
    )


def _parts(
    tasks: Sequence[Task], trees: Trees, candidate: Callable[[str], bool], max_blobs: int
) -> Iterator[dict[int, dict[str, str]]]:
    """Runs of tasks (index to candidate files) that share at most `max_blobs` contents; a single
    task may hold more."""
    part: dict[int, dict[str, str]] = {}
    blobs: set[str] = set()
    for at, task in enumerate(tasks):
        files = {p: blob for p, blob in trees(task.parent_id).items() if candidate(p)}
        if part and len(blobs.union(files.values())) > max_blobs:
            yield part
            part, blobs = {}, set()
        part[at] = files
        blobs.update(files.values())
    if part:
        yield part
