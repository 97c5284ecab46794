"""Ranks are complete, ties fall by lot but always the same way, and saying nothing earns chance."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from twin.coding.replay import Replayed
from twin.gate.chronological import BASELINES, bm25, rank, rank_tasks
from twin.records import Task

Floats = NDArray[np.float64]


def replayed(
    number: int = 0, *, num_files: int = 5, targets: tuple[int, ...] = (0,), num_sources: int = -1
) -> Replayed:
    """A task on files 0, 1, 2 ...; `text` falls with the number, the first ones are sources."""
    paths = tuple(f"{n:03}.py" for n in range(num_files))
    source = np.arange(num_files) < (num_files if num_sources < 0 else num_sources)
    text = np.linspace(1, 0, num_files)
    return Replayed(
        task=Task(
            repository="owner/name",
            commit_id=f"{number:040x}",
            parent_id="",
            time=1_700_000_000 + number,
            query="q",
            targets=tuple(paths[at] for at in targets),
        ),
        names=("is_source", "text"),
        paths=paths,
        values=np.stack([source, text], axis=1).astype(np.float32),
        is_target=np.isin(np.arange(num_files), targets),
        num_source_files=int(source.sum()),
    )


def test_ranks_count_from_one_and_there_is_one_for_every_target() -> None:
    task = replayed(num_files=6, targets=(1, 4))
    ranked = rank(task, np.array([0.1, 0.9, 0.5, 0.2, 0.4, 0.3]))
    assert ranked.target_ranks == (1, 3)
    assert (ranked.num_candidates, ranked.num_source_files) == (6, 6)
    assert (ranked.repository, ranked.commit_id, ranked.time) == (
        "owner/name",
        task.task.commit_id,
        task.task.time,
    )


def test_the_higher_the_score_the_better_and_no_number_is_worst() -> None:
    scores = np.array([np.nan, -np.inf, 0.0, np.inf])
    found = [rank(replayed(num_files=4, targets=(at,)), scores).target_ranks for at in range(4)]
    assert found == [(4,), (3,), (2,), (1,)]


def test_equal_scores_fall_the_same_way_for_equal_input() -> None:
    task, flat = replayed(num_files=100, targets=(7, 40)), np.zeros(100)
    assert rank(task, flat) == rank(task, flat.copy())
    assert rank(task, flat, seed=1) == rank(task, flat, seed=1)


def test_equal_scores_fall_otherwise_for_another_seed_or_task() -> None:
    flat = np.zeros(1000)
    by_seed = {rank(replayed(num_files=1000), flat, seed=seed).target_ranks for seed in range(5)}
    by_task = {rank(replayed(n, num_files=1000), flat).target_ranks for n in range(5)}
    assert len(by_seed) == len(by_task) == 5


def test_two_rankers_that_say_the_same_get_the_same_ranks() -> None:
    task = replayed(num_files=50, targets=(3, 9))
    coarse = np.round(np.linspace(1, 0, 50), 1)
    assert rank(task, coarse) == rank(task, coarse * 1000 - 7)


def test_a_scorer_that_says_nothing_gets_what_chance_gives() -> None:
    tasks = [replayed(n, num_files=20, targets=(n % 20,)) for n in range(4000)]
    ranks = rank_tasks(tasks, {"flat": lambda task: np.zeros(20)})["flat"]
    found = np.array([task.target_ranks[0] for task in ranks])
    for k in (1, 5, 10):
        expected = k / 20
        error = np.sqrt(expected * (1 - expected) / 4000)
        assert abs((found <= k).mean() - expected) < 4 * error
    assert found.min() == 1
    assert found.max() == 20
    first = np.array([task.target_ranks[0] for task in ranks[::20]])  # always the first file
    assert abs(first.mean() - 10.5) < 4 * 5.77 / np.sqrt(len(first))


@pytest.mark.parametrize("size", [1, 2, 50])
def test_a_perfect_scorer_is_first_whatever_the_size(size: int) -> None:
    task = replayed(num_files=size, targets=(size - 1,))
    assert rank(task, task.is_target.astype(np.float64)).target_ranks == (1,)


def test_every_scorer_is_asked_once_of_each_task_in_order() -> None:
    asked: list[tuple[str, str]] = []

    def told(name: str, task: Replayed) -> Floats:
        asked.append((name, task.task.commit_id))
        return np.zeros(len(task.paths))

    def once() -> Iterator[Replayed]:
        yield from map(replayed, range(3))

    scorers = {"a": lambda task: told("a", task), "b": lambda task: told("b", task)}
    ranked = rank_tasks(once(), scorers)
    assert asked == [(name, f"{n:040x}") for n in range(3) for name in "ab"]
    assert {name: [task.commit_id for task in tasks] for name, tasks in ranked.items()} == {
        name: [f"{n:040x}" for n in range(3)] for name in "ab"
    }


def test_no_tasks_are_no_ranks_for_every_scorer() -> None:
    assert rank_tasks([], BASELINES) == {name: [] for name in BASELINES}


def test_the_baseline_ranks_sources_by_their_text_and_everything_else_after_them() -> None:
    task = replayed(num_files=6, targets=(0, 5), num_sources=6)
    assert rank(task, bm25(task)).target_ranks == (1, 6)
    text_in_test = replayed(num_files=4, targets=(3,), num_sources=4)
    values = text_in_test.values.copy()
    values[:, 0] = [0, 0, 1, 1]  # the two with the best text are tests
    moved = Replayed(
        task=text_in_test.task,
        names=text_in_test.names,
        paths=text_in_test.paths,
        values=values,
        is_target=text_in_test.is_target,
        num_source_files=2,
    )
    assert rank(moved, bm25(moved)).target_ranks == (2,)
    assert list(BASELINES.values()) == [bm25]
