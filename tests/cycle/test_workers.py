"""Every item has an answer, whatever becomes of the workers."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from twin.cycle.workers import TRIES, Spread, default_workers


class Doubling:
    """Doubles; fails and dies where it is told to, and counts how often it was asked."""

    def __init__(self, place: Path, fails: frozenset[int], dies: frozenset[int]) -> None:
        self.place, self.fails, self.dies = place, fails, dies

    def answer(self, item: int) -> str:
        with (self.place / str(item)).open("a") as file:
            file.write("x")
        if item in self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if item in self.fails:
            raise OSError(28, "No space left on device")
        return str(2 * item)

    def failure(self, item: int, reason: str) -> str:
        return f"{item}: {reason}"


@pytest.fixture
def answers(tmp_path: Path) -> Callable[..., set[str]]:
    def run(
        items: list[int],
        workers: int,
        fails: frozenset[int] = frozenset(),
        dies: frozenset[int] = frozenset(),
    ) -> set[str]:
        begin = partial(Doubling, tmp_path, fails, dies)
        found = list(Spread(begin, workers).over(items))
        assert len(found) == len(items)
        return set(found)

    return run


def test_nothing_has_no_answer(answers: Callable[..., set[str]]) -> None:
    assert answers([], 1) == answers([], 2) == set()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_item_that_fails_is_tried_again_and_stops_no_other(
    answers: Callable[..., set[str]], tmp_path: Path, workers: int
) -> None:
    found = answers([1, 2, 3], workers, fails=frozenset({2}))
    assert found == {"2", "6", "2: OSError: [Errno 28] No space left on device"}
    assert len((tmp_path / "2").read_text()) == TRIES


@pytest.mark.slow
def test_an_item_that_kills_its_worker_is_given_up(answers: Callable[..., set[str]]) -> None:
    found = answers(list(range(8)), 2, dies=frozenset({3}))
    assert "3: its worker was killed" in found
    # Whatever was begun at the same moments counts too; most of the others are answered.
    assert len({answer for answer in found if answer.isdigit()}) >= 4


def test_there_is_at_least_one_worker() -> None:
    assert default_workers() >= 1
