"""Every item has an answer, whatever becomes of the workers."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from twin.cycle import workers
from twin.cycle.workers import default_workers, spread
from twin.cycle.working import TRIES
from twin.errors import MissingRequirement, StoreFull
from twin.store.database import Store, open_store


class Doubling:
    """Doubles; fails and dies where it is told to, and notes how often it was asked."""

    def __init__(
        self,
        place: Path,
        fails: frozenset[int],
        dies: frozenset[int],
        fault: Exception,
        store: Store,
    ) -> None:
        self.place, self.fails, self.dies, self.fault = place, fails, dies, fault

    def answer(self, told: int) -> None:
        with (self.place / f"tried-{told}").open("a") as file:
            file.write("x")
        if told in self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if told in self.fails:
            raise self.fault
        (self.place / f"answer-{told}").write_text(str(2 * told))

    def failure(self, told: int, reason: str) -> None:
        (self.place / f"answer-{told}").write_text(reason)

    def close(self) -> None:
        pass


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path) as store:
        yield store


@pytest.fixture
def answers(tmp_path: Path, store: Store) -> Callable[..., dict[int, str]]:
    def run(
        items: list[int],
        num_workers: int = 1,
        fails: frozenset[int] = frozenset(),
        dies: frozenset[int] = frozenset(),
        fault: Exception | None = None,
    ) -> dict[int, str]:
        begin = partial(Doubling, tmp_path, fails, dies, fault or OSError(5, "Input/output error"))
        left: list[int] = []
        spread(store, begin, [(str(n), n) for n in items], num_workers, tell=left.append)
        assert not items or left[-1] == 0
        assert left == sorted(left, reverse=True)
        return {n: (tmp_path / f"answer-{n}").read_text() for n in items}

    return run


def tries(tmp_path: Path, item: int) -> int:
    with contextlib.suppress(FileNotFoundError):
        return len((tmp_path / f"tried-{item}").read_text())
    return 0


def test_nothing_has_no_answer(answers: Callable[..., dict[int, str]]) -> None:
    assert answers([], 1) == answers([], 2) == {}


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_item_that_fails_is_tried_again_and_stops_no_other(
    answers: Callable[..., dict[int, str]], tmp_path: Path, num_workers: int
) -> None:
    found = answers([1, 2, 3], num_workers, fails=frozenset({2}))
    assert found == {1: "2", 2: "OSError: [Errno 5] Input/output error", 3: "6"}
    assert tries(tmp_path, 2) == TRIES


@pytest.mark.slow
def test_an_item_that_kills_its_workers_is_given_up_and_no_other(
    answers: Callable[..., dict[int, str]], tmp_path: Path
) -> None:
    found = answers(list(range(8)), 2, dies=frozenset({3}))
    assert "was killed" in found.pop(3)
    assert found == {n: str(2 * n) for n in found}
    assert tries(tmp_path, 3) == TRIES
    assert not multiprocessing.active_children()


def test_tries_are_counted_over_restarts(
    answers: Callable[..., dict[int, str]], tmp_path: Path
) -> None:
    for _ in range(TRIES):
        with pytest.raises(ZeroDivisionError):
            answers([1], fails=frozenset({1}), fault=ZeroDivisionError("a fault of this program"))
    assert "ZeroDivisionError: a fault" in answers([1])[1]
    assert tries(tmp_path, 1) == TRIES


@pytest.mark.parametrize(
    ("fault", "shown"),
    [(OSError(28, "No space left"), StoreFull), (MissingRequirement("no uv"), MissingRequirement)],
)
def test_what_is_wrong_with_the_machine_ends_the_work_and_counts_against_no_item(
    answers: Callable[..., dict[int, str]],
    store: Store,
    fault: Exception,
    shown: type[Exception],
) -> None:
    for _ in range(TRIES + 1):
        with pytest.raises(shown):
            answers([1, 2], fails=frozenset({1}), fault=fault)
    assert answers([1, 2]) == {1: "2", 2: "4"}


@pytest.mark.slow
def test_what_a_worker_cannot_go_on_for_is_raised_by_who_began_it(
    answers: Callable[..., dict[int, str]],
) -> None:
    with pytest.raises(MissingRequirement, match="no uv"):
        answers([1, 2], 2, fails=frozenset({1}), fault=MissingRequirement("no uv"))
    with pytest.raises(RuntimeError, match="in answer"):
        answers([1, 2], 2, fails=frozenset({1}), fault=ZeroDivisionError())
    assert not multiprocessing.active_children()


def test_interrupting_counts_against_no_item(
    answers: Callable[..., dict[int, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    work = Doubling.answer

    def interrupted(self: Doubling, told: int) -> None:
        work(self, told)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Doubling, "answer", interrupted)
        for _ in range(TRIES + 1):
            with pytest.raises(KeyboardInterrupt):
                answers([1])
    assert answers([1]) == {1: "2"}


PROGRAM = """
import signal, sys
from functools import partial
from pathlib import Path
from tests.cycle.test_workers import Slow
from twin.cycle.workers import spread
from twin.store.database import open_store
if __name__ == "__main__":
    # Whoever runs the tests in the background may have it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    place, first, last, num_workers = Path(sys.argv[1]), *map(int, sys.argv[2:])
    items = [(str(n), n) for n in range(first, last)]
    with open_store(place) as store:
        spread(store, partial(Slow, place), items, num_workers, tell=lambda left: None)
"""


class Slow:
    """Takes a moment, and notes that it was done; what was done before it began, it leaves."""

    def __init__(self, place: Path, store: Store) -> None:
        self.place = place

    def answer(self, told: int) -> None:
        if told in done(self.place):
            return
        time.sleep(0.1)
        with (self.place / "done").open("a") as file:
            file.write(f"{told}\n")

    def failure(self, told: int, reason: str) -> None:
        raise AssertionError(reason)

    def close(self) -> None:
        pass


@pytest.fixture
def start(tmp_path: Path, store: Store) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Begins the work on items `first` to `last` in another process."""
    (tmp_path / "program.py").write_text(PROGRAM)
    root = Path(__file__).parents[2]
    with contextlib.ExitStack() as stack:

        def begin(first: int, last: int, num_workers: int) -> "subprocess.Popen[bytes]":
            line = [sys.executable, tmp_path / "program.py", tmp_path]
            told = map(str, (first, last, num_workers))
            process = subprocess.Popen([*line, *told], env={**os.environ, "PYTHONPATH": str(root)})
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield begin


def done(tmp_path: Path) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [int(line) for line in (tmp_path / "done").read_text().split()]
    return []


@pytest.mark.slow
def test_campaigns_that_ask_the_same_at_once_share_the_work(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    both = [start(0, 30, 2), start(10, 40, 1)]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(done(tmp_path)) == list(range(40))


@pytest.mark.slow
def test_what_a_killed_campaign_held_is_done_by_the_one_beside_it(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    first, second = start(0, 30, 2), start(0, 30, 1)
    wait_for(lambda: len(done(tmp_path)) > 5)
    first.kill()
    assert second.wait() == 0
    assert set(done(tmp_path)) == set(range(30))
    # What was under way in the workers that were killed can have been noted, and is done again.
    assert len(done(tmp_path)) <= 30 + 2


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_interrupted_campaign_ends_and_leaves_nothing_held(
    start: Callable[..., "subprocess.Popen[bytes]"],
    tmp_path: Path,
    store: Store,
    num_workers: int,
) -> None:
    process = start(0, 1000, num_workers)
    wait_for(lambda: len(done(tmp_path)) > 3)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) != 0
    assert len(done(tmp_path)) < 900
    with store.engine.connect() as connection:
        query = "SELECT count(*) FROM work_item WHERE owner <> '' OR num_tries > 0"
        assert connection.exec_driver_sql(query).scalar() == 0
        assert connection.exec_driver_sql("SELECT count(*) FROM work_wish").scalar() == 0


@pytest.mark.slow
def test_workers_that_cannot_even_begin_are_not_replaced_for_ever(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_enter", die)
    with pytest.raises(MissingRequirement, match="exit code 9"):
        spread(store, partial(Slow, Path()), [("1", 1)], 2, tell=lambda left: None)


def die(*_: object) -> None:
    os._exit(9)


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_there_is_at_least_one_worker() -> None:
    assert default_workers() >= 1
