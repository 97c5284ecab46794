"""One run of a tournament: a variant under a seed with a budget, alone in a process.

Owns running cells side by side and that they can be killed at any moment: every finished cell is
one line of `cells.jsonl`, a cell in work has the trainer's own checkpoint, and asking again goes on
from there. Each computes on one thread, and its time is its process's CPU time. Cells are
trained by `pretrain`, exactly as the product trains; which cells there are is `tournament`'s
business. Importing it needs no torch.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from twin.lm import processor
from twin.lm.errors import LmError
from twin.lm.recipe import Recipe

if TYPE_CHECKING:
    from twin.lm.pretrain import Status

Mode = Literal["speed", "tokens", "time"]
"""`speed`: a short run that only measures; `tokens`, `time`: what is held equal."""
Tell = Callable[[str, int, int], None]
Pool = Callable[[int], AbstractContextManager[Executor]]
"""How many at once -> where they run."""
LINES: Final = "cells.jsonl"
_TITLES: Final = {"speed": "Speed", "tokens": "Equal tokens", "time": "Equal CPU time"}
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run to be made."""

    variant: str
    seed: int
    mode: Mode
    recipe: Recipe

    def key(self, corpus_key: str, where: Sequence[str] = ()) -> str:
        """Equal for equal work, whatever the variant is called; `where` it is done counts, since
        speeds of different machines, kernels and versions are not compared."""
        about = [corpus_key, self.recipe.to_dict(), list(where)]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One finished run, as its line says."""

    key: str
    variant: str
    seed: int
    num_parameters: int
    tokens: int
    cpu_s: float
    """Of training alone: tokens over the speed."""
    tokens_per_cpu_s: float
    validation: float | None
    """Nats per token over the whole held-out part in windows without a past; None: diverged."""
    validation_carried: float | None
    bits_per_byte: float | None
    train_loss: float | None
    verdict: str
    kernels: str
    precision: str


def read_outcomes(folder: Path) -> dict[str, Outcome]:
    """Finished cells by key; lines cut short by a kill are skipped."""
    try:
        text = (folder / LINES).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    found = {}
    for line in text.splitlines():
        try:
            outcome = Outcome(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[outcome.key] = outcome
    return found


@dataclass(slots=True)
class Work:
    """Runs cells that are not done. `cache` and `corpus_key` name a corpus that `prepare` made."""

    folder: Path
    cache: Path
    corpus_key: str
    jobs: int
    tell: Tell
    pool: Pool

    def run(self, cells: Sequence[Cell]) -> list[Outcome]:
        """One outcome per cell, in order; equal cells are run once."""
        asking = {(one.recipe.kernels, one.recipe.precision): one.recipe for one in cells}
        where = {asked: _where(recipe) for asked, recipe in asking.items()}
        keys = [
            cell.key(self.corpus_key, where[cell.recipe.kernels, cell.recipe.precision])
            for cell in cells
        ]
        done = read_outcomes(self.folder)
        left = {key: cell for key, cell in zip(keys, cells, strict=True) if key not in done}
        self._told(cells, keys, done)
        if left:
            with self.pool(self.jobs) as pool:
                try:
                    self._collect(pool, left, cells, keys, done)
                except BaseException:
                    # Also at an interruption: what runs is not waited for, it can be continued.
                    _end(pool)
                    raise
        return [
            replace(done[key], variant=cell.variant) for key, cell in zip(keys, cells, strict=True)
        ]

    def _collect(
        self,
        pool: Executor,
        left: dict[str, Cell],
        cells: Sequence[Cell],
        keys: Sequence[str],
        done: dict[str, Outcome],
    ) -> None:
        running: dict[Future[Outcome], str] = {
            pool.submit(_run_cell, cell, key, self.cache, self.corpus_key, self.folder): key
            for key, cell in left.items()
        }
        while running:
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                key = running.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool as error:
                    raise LmError(
                        f"The run of {left[key].variant} was ended from outside, mostly for want "
                        "of memory. Run the same command again, with fewer `--jobs`."
                    ) from error
                _append(self.folder / LINES, outcome)
                done[key] = outcome
                shutil.rmtree(self.folder / key, ignore_errors=True)
            self._told(cells, keys, done)

    def _told(self, cells: Sequence[Cell], keys: Sequence[str], done: dict[str, Outcome]) -> None:
        if cells:
            self.tell(_TITLES[cells[0].mode], sum(key in done for key in keys), len(cells))


def _run_cell(cell: Cell, key: str, cache: Path, corpus_key: str, folder: Path) -> Outcome:
    """In a process of its own: trains, or goes on where a killed run had its checkpoint."""
    from twin.lm import snapshot
    from twin.lm.corpus import reopen
    from twin.lm.pretrain import pretrain

    marks: list[tuple[int, float]] = []

    def told(status: "Status") -> None:
        marks.append((status.tokens, time.process_time()))

    own = folder / key
    resume = (own / snapshot.NAME).is_file()
    corpus = reopen(cache, corpus_key)
    result = pretrain(cell.recipe, corpus, own, resume=resume, force=not resume, tell=told)
    # A run of a few steps, or the rest of one, has no two reports: then the trainer's own clock.
    speed = _measured(marks) or result.tokens_per_s
    return Outcome(
        key=key,
        variant=cell.variant,
        seed=cell.seed,
        num_parameters=result.parameters,
        tokens=result.tokens,
        cpu_s=result.tokens / speed,
        tokens_per_cpu_s=speed,
        validation=_number(result.validation),
        validation_carried=_number(result.validation_carried),
        bits_per_byte=_number(result.bits_per_byte),
        train_loss=_number(result.train_loss),
        verdict=result.verdict,
        kernels=result.kernels,
        precision=result.precision,
    )


def _where(recipe: Recipe) -> tuple[str, ...]:
    """This program's version, the processor, and what the recipe's `auto` comes to here."""
    from twin.lm.kernels.registry import choose
    from twin.lm.precision import choose_precision
    from twin.lm.team import Alone

    device = Alone().device
    kernels = choose(recipe.kernels, device)
    precision = choose_precision(device, recipe.precision, has_half=kernels.has_half)
    return _version(), processor.name(), device.type, kernels.name, precision


def _version() -> str:
    try:
        return metadata.version("cognitive-twin")
    except metadata.PackageNotFoundError:
        return ""


def _measured(marks: Sequence[tuple[int, float]]) -> float:
    """Tokens per CPU second between the first and the last report, so that neither set-up nor
    validation counts; 0 where there are not two."""
    if len(marks) < 2 or marks[-1][1] <= marks[0][1]:
        return 0.0
    return (marks[-1][0] - marks[0][0]) / (marks[-1][1] - marks[0][1])


def _number(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _append(path: Path, outcome: Outcome) -> None:
    """One line, on disk when this returns."""
    data = json.dumps(asdict(outcome), allow_nan=False).encode()
    with path.open("ab+") as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a line that a kill cut short must not swallow this one
                data = b"\n" + data
        file.write(data + b"\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def processes(jobs: int) -> Iterator[Executor]:
    """A pool of processes that compute on one thread each and die with this one."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # libraries read this when they load
    try:
        with ProcessPoolExecutor(
            max_workers=jobs,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_die_with,
            initargs=(os.getpid(),),
        ) as pool:
            yield pool
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _end(pool: Executor) -> None:
    """Leaves nothing running."""
    if isinstance(pool, ProcessPoolExecutor):
        for process in list((pool._processes or {}).values()):
            process.terminate()
    pool.shutdown(wait=False, cancel_futures=True)


def _die_with(parent: int) -> None:
    """Ends this process when its parent is gone: after a kill -9 nothing must go on writing into a
    folder that the next command continues."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
