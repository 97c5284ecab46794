"""Progress of work in several parts, drawn with rich on stderr; `show.stages` is the way in.

Owns the drawing alone. Imported where somebody watches, since rich takes a tenth of a second.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text


class _Count(ProgressColumn):
    """`120/431`, or only `120` where nobody knows the end."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(f"{task.completed:.0f}" if task.completed else "")
        return Text("" if task.total <= 1 else f"{task.completed:.0f}/{task.total:.0f}")


class _Seconds(ProgressColumn):
    """How long a line has taken, in seconds; nothing before it starts or if it was skipped."""

    def render(self, task: Task) -> Text:
        seconds = task.finished_time if task.finished else task.elapsed
        shown = "" if seconds is None or task.fields["skipped"] else f"{seconds:.1f} s"
        return Text(shown, justify="right")


@contextmanager
def bars(titles: Sequence[str]) -> Iterator[Callable[[str, int, int], None]]:
    """One line per title, filled in order; without titles one line per part, gone at the end."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        _Count(),
        TextColumn("{task.fields[doing]}", markup=False, style="dim"),
        _Seconds(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=not titles) as drawn:
        lines = {
            title: drawn.add_task(title, start=False, total=None, doing="", skipped=False)
            for title in titles
        }
        yield _Teller(drawn, lines, grows=not titles)
        for line in lines.values():
            drawn.stop_task(line)


class _Teller:
    """Turns what is told into lines."""

    def __init__(self, drawn: Progress, lines: dict[str, TaskID], *, grows: bool) -> None:
        self._drawn = drawn
        self._lines = lines
        self._grows = grows
        self._current: TaskID | None = None
        self._begun: set[TaskID] = set()

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._grows and what not in self._lines:
            self._lines[what] = self._drawn.add_task(what, total=None, doing="", skipped=False)
        line = self._lines.get(what)
        if line is None:
            if self._current is not None:
                self._drawn.update(self._current, completed=done, total=total or None, doing=what)
        elif self._grows:
            self._drawn.update(line, completed=done, total=total or None)
        elif total:
            self._end(line)
        else:
            self._current = line
            self._begun.add(line)
            self._drawn.start_task(line)

    def _end(self, line: TaskID) -> None:
        skipped = line not in self._begun
        said = "done before" if skipped else ""
        self._drawn.start_task(line)
        self._drawn.update(line, completed=1, total=1, doing=said, skipped=skipped)
