"""Work spread over processes, of this machine or of a cluster, whatever becomes of them.

What is to be done is in the store's queue (`store.queue`), and every worker takes its next item
from there, so several campaigns, and several machines, can work on one store at once. A worker
keeps its answers in the store itself; nothing passes through who began this, whose memory does not
grow with the work. An item on which a worker fails or dies is tried three times, over any number of
processes and restarts; then its failure is its answer: one bad item never stops the rest. What a
worker does is in `working`; what the work is, is the caller's business.
"""

import contextlib
import multiprocessing
import os
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final, Protocol

from twin.coding.sandbox.confine import PR_SET_PDEATHSIG, prctl
from twin.cycle.cluster import Nodes
from twin.cycle.working import TRIES, Begin, Shift, work
from twin.errors import MissingRequirement, StoreError, TwinError
from twin.store.database import Store
from twin.store.owners import this_process
from twin.store.queue import WorkQueue

LOOK_S: Final = 0.5
"""How often who began looks at what is left, if no worker ends before."""
STOP_S: Final = 3.0
"""For a worker to end its run and clean up behind it."""

Tell = Callable[[int], None]
"""Called with how many items are left."""


class Crew(Protocol):
    """Workers that run beside who began them."""

    def look(self, wait_s: float) -> None:
        """Waits a moment, and replaces those that have died. Raises what a worker could not go on
        for."""

    def stop(self) -> None:
        """Ends them all, at once."""


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
        store.queue.free_lost(queue)  # of campaigns that were killed before
        shift = Shift(address=store.address, queue=queue, begin=begin)
        if ray:
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
        at_work = [process for process, _ in self._crew if process.exitcode is None]
        wait([process.sentinel for process in at_work], wait_s)
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
            process.terminate()
        limit = time.monotonic() + STOP_S
        for process, said in self._crew:
            process.join(max(limit - time.monotonic(), 0))
            process.kill()
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
    """In a worker process. Ctrl-C is its parent's to handle, who then asks it to end."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it was gone before
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with shift.address.open() as store:
            says.send(None)
            for _ in work(store, shift):
                pass
    except (TwinError, OSError) as error:
        says.send(error)
    except Exception as error:  # not every exception survives the way: its text does
        says.send(RuntimeError("".join(traceback.format_exception(error))))
