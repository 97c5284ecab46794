"""Work spread over processes of this machine, whatever becomes of them.

An item's answer comes back in whatever order. An item on which a worker fails is tried three times,
then its failure is its answer: one bad item never stops the rest. Memory does not grow with the
number of items. What the work is, is the caller's business.
"""

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Final, Generic, Protocol, TypeVar

from twin.coding.sandbox.confine import PR_SET_PDEATHSIG, prctl
from twin.errors import TwinError

TRIES: Final = 3

Item = TypeVar("Item", bound=Hashable)
Answer = TypeVar("Answer")


Given = TypeVar("Given", contravariant=True)
Gives = TypeVar("Gives", covariant=True)


class Worker(Protocol[Given, Gives]):
    """Made once in each process."""

    def answer(self, item: Given) -> Gives: ...
    def failure(self, item: Given, reason: str) -> Gives: ...


class Spread(Generic[Item, Answer]):
    """The answers to many items."""

    def __init__(self, begin: Callable[[], Worker[Item, Answer]], num_workers: int) -> None:
        """`begin` makes a worker; it and the items must survive pickling where there are several
        workers."""
        self._begin = begin
        self._num_workers = num_workers

    def over(self, items: Sequence[Item]) -> Iterator[Answer]:
        """An answer for each item."""
        if not items:
            return
        worker = self._begin()  # also here: it tells how an item failed whose process was killed
        if self._num_workers == 1:
            for item in items:
                yield _three_times(worker, item)
            return
        tries: Counter[Item] = Counter()
        waiting = list(reversed(items))
        while waiting:
            running: dict[Future[Answer], Item] = {}
            pool = ProcessPoolExecutor(
                self._num_workers,
                multiprocessing.get_context("spawn"),
                initializer=_enter,
                initargs=(self._begin, os.getpid()),
            )
            try:
                while waiting or running:
                    while waiting and len(running) < 2 * self._num_workers:
                        running[pool.submit(_answer, waiting[-1])] = waiting[-1]
                        waiting.pop()
                    for done in wait(running, return_when=FIRST_COMPLETED).done:
                        answer = done.result()
                        del running[done]
                        yield answer
            except BrokenProcessPool:
                # Nobody knows over which item a worker was killed: all that were begun count.
                for item in running.values():
                    tries[item] += 1
                    if tries[item] >= TRIES:
                        yield worker.failure(item, "its worker was killed")
                    else:
                        waiting.append(item)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def default_workers() -> int:
    """One for each core this process may use."""
    return len(os.sched_getaffinity(0))


_worker: Any = None


def _enter(begin: Callable[[], Any], parent: int) -> None:
    """In a worker process, once. It ends with who began it, even by `kill -9`, and its runs with
    it; Ctrl-C is its parent's to handle."""
    global _worker
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it was gone before
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker = begin()


def _answer(item: Any) -> Any:
    """In a worker process."""
    return _three_times(_worker, item)


def _three_times(worker: Worker[Item, Answer], item: Item) -> Answer:
    for _ in range(TRIES):
        try:
            return worker.answer(item)
        except (TwinError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
    return worker.failure(item, reason)
