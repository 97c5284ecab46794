"""A training as one live line on stderr: how far, the loss, the speed, the time that is left."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from twin.cli import show

if TYPE_CHECKING:
    from rich.progress import Progress

    from twin.lm.pretrain import Result, Status


class Line:
    """What is told of one run after another; nothing where nobody watches."""

    def __init__(self, bar: "Progress | None", *, quiet: bool) -> None:
        self._bar, self._quiet = bar, quiet
        self._who = "Training"
        self._task = None if bar is None else bar.add_task(self._who, total=1.0, figures="")

    def begin(self, who: str) -> None:
        """The runs from here on are `who`'s."""
        self._who = who
        self._show(who, 0.0, "")

    def told(self, status: "Status") -> None:
        self._show(self._who, status.progress, _figures(status))

    def validating(self, done: int, total: int) -> None:
        self._show("Validating", done / total, "")

    def ended(self, result: "Result") -> None:
        """One of several runs is over."""
        told = (
            f"{self._who}: {result.validation:.3f} nats per token held out, after "
            f"{result.step:,} steps in {result.seconds:,.0f} s."
            + ("" if result.finished else f" {result.verdict}")
        )
        if self._bar is not None:
            self._bar.console.print(told, markup=False)
        elif not self._quiet:
            show.say(told)

    def _show(self, what: str, progress: float, figures: str) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=what, completed=progress, figures=figures)


@contextmanager
def watched(*, quiet: bool) -> Iterator[Line]:
    """The line while the block runs. `quiet` is for `--json`."""
    if quiet or not sys.stderr.isatty():
        yield Line(None, quiet=quiet)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[figures]}", markup=False, style="dim"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Line(bar, quiet=quiet)


def _figures(status: "Status") -> str:
    parts = [f"step {status.step:,}", f"loss {status.loss:.3f}"]
    if status.validation is not None:
        parts.append(f"held out {status.validation:.3f}")
    parts.append(f"{status.tokens_per_s:,.0f} tok/s")
    if status.gradient_ratio is not None:
        parts.append(f"RWKV/Mamba {status.gradient_ratio:.2f}")
    minutes, seconds = divmod(int(min(status.eta_s, 359_999)), 60)
    return "  ".join([*parts, f"{minutes}:{seconds:02d} left"])
