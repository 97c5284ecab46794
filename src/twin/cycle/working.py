"""What one worker does, in whatever process of whatever machine: item after item, until nothing is
left.

Owns what becomes of an item that fails, and what of a machine that is at fault. Who the workers
are, and where, is for `workers`.
"""

import contextlib
import errno
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from twin.errors import MissingRequirement, StoreCorrupt, StoreError, StoreFull, TwinError
from twin.store.database import Address, Store
from twin.store.owners import this_process
from twin.store.queue import RENEW_S, Leased, WorkQueue

TRIES: Final = 3
IDLE_S: Final = 0.5
"""How often a worker looks again while others hold all that is left."""


class Worker(Protocol):
    """Made once in each process. Keeps what it finds in the store; asked again, it goes on."""

    def answer(self, told: Any) -> None: ...
    def failure(self, told: Any, reason: str) -> None: ...
    def close(self) -> None: ...


Begin = Callable[[Store], Worker]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """What a worker is told once. Travels to other processes."""

    address: Address
    queue: str
    begin: Begin


def work(store: Store, shift: Shift) -> Generator[int, None, None]:
    """Does what is to be done, item after item; how many are left after each. Ends when nothing is,
    though others may have done it."""
    queue, owner = store.queue, this_process()
    with contextlib.closing(shift.begin(store)) as worker, _renewed(queue, owner):
        while True:
            leased = queue.take(shift.queue, owner)
            if leased is not None:
                _once(worker, queue, leased, owner)
            else:
                queue.free_lost(shift.queue)
                time.sleep(IDLE_S)
            left = queue.num_left(shift.queue)
            yield left
            if not left:
                return


def _once(worker: Worker, queue: WorkQueue, leased: Leased, owner: str) -> None:
    """Tries an item once, or gives it up."""
    if leased.num_tries > TRIES:
        worker.failure(leased.told, leased.reason)
        queue.finish(leased.key)
        return
    try:
        worker.answer(leased.told)
        queue.finish(leased.key)
    except Exception as error:
        fault = _of_machine(error)
        if fault is not None:
            queue.give_back(leased.key, owner, leased.reason, counts=False)
            raise fault from (None if fault is error else error)
        queue.give_back(leased.key, owner, f"{type(error).__name__}: {error}")
        if not isinstance(error, TwinError | OSError):
            raise  # a fault of this program, which everybody should see


def _of_machine(error: Exception) -> Exception | None:
    """What would be the same for every item."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(
            f"A disk that is needed is full ({error}); what was finished is kept. Free some "
            "space, then repeat the command."
        )
    if isinstance(error, MissingRequirement | StoreError) and not isinstance(error, StoreCorrupt):
        return error
    return None


@contextlib.contextmanager
def _renewed(queue: WorkQueue, owner: str) -> Iterator[None]:
    """Puts off the end of this process's leases meanwhile."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(RENEW_S):
            with contextlib.suppress(StoreError):  # the next attempt may succeed
                queue.renew(owner)

    thread = threading.Thread(target=renew, name="twin-leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
