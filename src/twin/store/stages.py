"""One run of a command, stage by stage: skipped where done before, timed, recorded.

Owns when a stage counts as done, how a run's end is told to the log, and that two runs on one store
take turns. What a stage does, and what its result depends on, is the caller's business (`cycle`).
"""

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal

import msgspec

from twin import __version__
from twin.config import Config
from twin.store import faults
from twin.store.database import Store

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how many done, how many in all; 0 where nobody knows)."""

Result = dict[str, Any]

_LOCK: Final = "run.lock"
WAITING: Final = "waiting for another run on this repository"


class Stages:
    """The stages of one run, in the order in which they are asked for."""

    def __init__(
        self, store: Store, run_id: str, repository: str, redo: bool, progress: Progress | None
    ) -> None:
        self.run_id = run_id
        self.seconds: dict[str, float] = {}
        """Per stage; one that was done before took 0."""
        self.skipped: list[str] = []
        self.status: Literal["done", "refused"] = "done"
        """How the run ends, if nothing is raised."""
        self._store = store
        self._repository = repository
        self._redo = redo
        self._progress = progress

    def stage(
        self,
        name: str,
        key: Sequence[object],
        work: Callable[[], Result],
        *,
        still_good: Callable[[Result], bool] = lambda result: True,
    ) -> Result:
        """The stage's result: recorded before under the same key, or made now.

        `still_good` looks whether what an earlier run left outside the tables is still there.
        """
        digest = key_of(key)
        done = None if self._redo else self._store.runs.finished_stage(
            self._repository, name, digest
        )  # fmt: skip
        if done is not None and still_good(done):
            self.seconds[name] = 0.0
            self.skipped.append(name)
            self._tell(name, 1, 1)
            return done
        self._tell(name, 0, 0)
        started = time.perf_counter()
        result = work()
        self.seconds[name] = round(time.perf_counter() - started, 3)
        self._store.runs.stage_done(self.run_id, name, digest, result, self.seconds[name])
        self._tell(name, 1, 1)
        return result

    def _tell(self, name: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(name, done, total)


@contextmanager
def running(
    store: Store,
    command: str,
    repository: str,
    config: Config,
    *,
    redo: bool = False,
    progress: Progress | None = None,
) -> Iterator[Stages]:
    """A run whose end is recorded, however it ends; a second one at the same time waits for it.

    With `redo` no stage counts as done before.
    """
    with _alone(store, progress):
        run_id = store.runs.begin(command, repository, msgspec.to_builtins(config))
        stages = Stages(store, run_id, repository, redo, progress)
        status: Literal["done", "refused", "failed", "interrupted"] = "failed"
        try:
            yield stages
            status = stages.status
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            store.runs.finish(run_id, status, {"seconds": stages.seconds})


def key_of(parts: Sequence[object]) -> str:
    """A short name for what a stage was made from, this program's version included."""
    # ASCII escapes: a path that is not UTF-8 holds half surrogates, which have no UTF-8 form.
    told = json.dumps([__version__, *parts], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(told.encode("ascii")).hexdigest()[:32]


@contextmanager
def _alone(store: Store, progress: Progress | None) -> Iterator[None]:
    """Holds this store's turn. The kernel gives it back when the process ends, even by `kill -9`.

    A file next to the artefacts, because those are always local, also where PostgreSQL is used.
    """
    try:
        file = (store.folder / _LOCK).open("ab")
    except OSError as error:
        raise faults.of_disk(error, str(store.folder)) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if progress is not None:
                progress(WAITING, 0, 0)
            fcntl.flock(file, fcntl.LOCK_EX)
            if progress is not None:
                progress(WAITING, 1, 1)
        yield
