"""Work spread over processes, of this machine or of a cluster, whatever becomes of them.

What is to be done is in the store's queue (`store.queue`), and every worker takes its next item
from there, so several campaigns, and several machines, can work on one store at once. A worker
keeps its answers in the store itself; nothing passes through who began this, whose memory does not
grow with the work. An item on which a worker fails or dies is tried three times, over any number of
processes and restarts; then its failure is its answer: one bad item never stops the rest. A machine
that is at fault (a full disk, a program that is missing) counts against no item. What the work is,
is the caller's business.
"""

import contextlib
import errno
import multiprocessing
import os
import secrets
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final, Protocol

from twin.coding.sandbox.confine import PR_SET_PDEATHSIG, prctl
from twin.errors import MissingRequirement, StoreCorrupt, StoreError, StoreFull, TwinError
from twin.store.database import Address, Store
from twin.store.owners import this_process
from twin.store.queue import RENEW_S, Leased, WorkQueue

TRIES: Final = 3
LOOK_S: Final = 0.2
"""How often who began looks at what is left."""
IDLE_S: Final = 0.5
"""How often a worker looks again while others hold all that is left."""

Tell = Callable[[int], None]
"""Called with how many items are left."""


class Worker(Protocol):
    """Made once in each process. Keeps what it finds in the store; asked again, it goes on."""

    def answer(self, told: Any) -> None: ...
    def failure(self, told: Any, reason: str) -> None: ...


Begin = Callable[[Store], Worker]


class Crew(Protocol):
    """Workers that run beside who began them."""

    def look(self, wait_s: float) -> None:
        """Waits a moment, and replaces those that have died. Raises what a worker could not go on
        for."""

    def stop(self) -> None:
        """Ends them all, at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """What a worker is told once. Travels to other processes."""

    address: Address
    queue: str
    begin: Begin


def spread(
    store: Store,
    begin: Begin,
    items: Iterable[tuple[str, Any]],
    num_workers: int | None,
    *,
    tell: Tell,
    ray: str = "",
) -> dict[str, str]:
    """Has every item done: a key for the question, and what a worker is told of it, as JSON.

    Of `begin` there is one worker for each process; it must survive pickling where there are
    several. One works here; with `ray`, the address of a cluster, all work there. `num_workers`
    None means one for each core. Gives the machines that could not take part, and why. Raises what
    keeps every machine from going on.
    """
    queue = f"{this_process()}/{secrets.token_hex(4)}"
    try:
        if not store.queue.put(queue, items):
            return {}
        shift = Shift(address=store.address, queue=queue, begin=begin)
        if ray:
            from twin.cycle.cluster import Nodes

            with Nodes(shift, ray, num_workers) as nodes:
                _with(nodes, store.queue, queue, tell)
            return nodes.refused
        num_workers = num_workers or default_workers()
        if num_workers > 1:
            _with(Processes(shift, num_workers), store.queue, queue, tell)
        else:
            _alone(store, shift, tell)
        return {}
    finally:
        with contextlib.suppress(StoreError):  # what ended this says more
            store.queue.close(queue)


def default_workers() -> int:
    """One for each core this process may use."""
    return len(os.sched_getaffinity(0))


def _with(crew: Crew, waiting: WorkQueue, queue: str, tell: Tell) -> None:
    """Waits until a crew has done everything, and does what no worker can: notice the dead."""
    try:
        while _left(waiting, queue, tell):
            crew.look(LOOK_S)
            waiting.free_lost(queue)
    finally:
        crew.stop()


def _left(waiting: WorkQueue, queue: str, tell: Tell) -> int:
    left = waiting.num_left(queue)
    tell(left)
    return left


def _alone(store: Store, shift: Shift, tell: Tell) -> None:
    with contextlib.closing(work(store, shift)) as lefts:
        for left in lefts:
            tell(left)


# --- a worker, in whatever process


def work(store: Store, shift: Shift) -> Generator[int, None, None]:
    """Does what is to be done, item after item; how many are left after each. Ends when nothing is,
    though others may have done it."""
    queue, owner = store.queue, this_process()
    worker = shift.begin(store)
    with _renewed(queue, owner):
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
            raise fault from error
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


# --- several, on this machine


class Processes:
    """A crew of processes on this machine. They end with who began them, even by `kill -9`, and
    their runs with them."""

    def __init__(self, shift: Shift, num_workers: int) -> None:
        self._shift = shift
        self._context = multiprocessing.get_context("spawn")
        self._num_stillborn = 0
        self._crew = [self._begun() for _ in range(num_workers)]

    def look(self, wait_s: float) -> None:
        wait([process.sentinel for process, _ in self._crew], wait_s)
        for at, (process, said) in enumerate(self._crew):
            if process.exitcode is None:
                continue
            heard = _heard(said)
            if heard and heard[-1] is not None:
                raise heard[-1]
            if process.exitcode:
                # One that had begun held an item, whose tries are counted.
                self._num_stillborn += not heard
                if self._num_stillborn >= TRIES:
                    raise MissingRequirement(
                        f"Workers end before they begin (exit code {process.exitcode}). Free some "
                        "memory, or give fewer `--workers`."
                    )
                self._crew[at] = self._begun()

    def stop(self) -> None:
        for process, _ in self._crew:
            process.kill()
        for process, said in self._crew:
            process.join()
            said.close()

    def _begun(self) -> tuple[BaseProcess, Connection]:
        hears, says = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_enter, args=(self._shift, os.getpid(), says), daemon=True
        )
        process.start()
        says.close()
        return process, hears


def _heard(said: Connection) -> list[Exception | None]:
    """Everything that a worker which has ended had said: None when it began, and what it could not
    go on for."""
    found: list[Exception | None] = []
    with contextlib.suppress(EOFError):
        while said.poll():
            found.append(said.recv())
    return found


def _enter(shift: Shift, parent: int, says: Connection) -> None:
    """In a worker process. Ctrl-C is its parent's to handle."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it was gone before
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with shift.address.open() as store:
            says.send(None)
            for _ in work(store, shift):
                pass
    except (TwinError, OSError) as error:
        says.send(error)
    except Exception as error:  # not every exception survives the way: its text does
        says.send(RuntimeError("".join(traceback.format_exception(error))))
