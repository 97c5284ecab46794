"""Shows results: a table for people, JSON for programs, progress on stderr.

Owns how things look in a terminal and that nothing from a repository (paths, commit messages) can
steer it. Decides nothing about what is shown.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click

Advance = Callable[[int, int], None]
"""Called with (done, total) as often as one likes."""

Tell = Callable[[str, int, int], None]
"""Called with (what is being done, done, total); a total of 0 is one that nobody knows."""

_PIPE_WIDTH = 200  # no terminal to fit into: wide, so that `grep` and `cut` find whole rows
# Control characters, and the marks that reorder text (Trojan Source, CVE-2021-42574).
_STEERING = (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CLEAN = dict.fromkeys(_STEERING, "\N{REPLACEMENT CHARACTER}") | dict.fromkeys((9, 10, 13), " ")


def as_json(value: object) -> None:
    """Prints one JSON document on stdout. Records become objects; text stays pure ASCII."""
    click.echo(json.dumps(value, indent=2, default=_plain))


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, note: str = ""
) -> None:
    """Prints a table on stdout; numbers to the right; nothing in a cell is taken as markup."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [tuple(row) for row in rows]
    drawn = Table(box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        values = [row[number] for row in rows if row[number] is not None]
        numeric = bool(values) and all(isinstance(value, int | float) for value in values)
        drawn.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(_cell(value)) for value in row))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    with console.capture() as captured:  # rich ends the process where the reader has gone
        console.print(Text(clean(title), style="bold"))  # above: a table would wrap it at its width
        console.print(drawn)
        if note:
            console.print(Text(note))
    click.echo(captured.get(), nl=False)


def say(text: str) -> None:
    """Prints one line for people on stdout."""
    click.echo(clean(text))


@contextmanager
def progress(label: str, *, quiet: bool = False) -> Iterator[Advance]:
    """A progress bar on stderr while the block runs; none where nobody watches.

    `quiet` is for `--json`; a stderr that is no terminal is quiet by itself.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(clean(label), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def stages(titles: Sequence[str] = (), *, quiet: bool = False) -> Iterator[Tell]:
    """Bars on stderr for work of several parts; none where nobody watches.

    Each of `titles` has its line from the start, and the lines stay; whatever else is told about
    belongs to the title before it. Without `titles` every part has a line, and all go at the end.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from twin.cli.bars import bars

    with bars([clean(title) for title in titles]) as tell:
        yield tell


def clean(text: str) -> str:
    """Text that cannot move the cursor, recolour or reorder what a terminal shows."""
    return text.translate(_CLEAN)


def when(unix_seconds: float | None) -> str:
    """`2026-11-21 02:15` in UTC, or a dash."""
    if unix_seconds is None:
        return "-"
    return datetime.fromtimestamp(unix_seconds, tz=UTC).strftime("%Y-%m-%d %H:%M")


def counted(counts: Mapping[str, int], none: str) -> str:
    """Reasons and how often, as people write them; `none` where there is no reason."""
    return ", ".join(f"{count} {why.replace('_', ' ')}" for why, count in counts.items()) or none


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return clean(str(value))


def _plain(value: Any) -> object:
    """What `json` does not know by itself: records, sets, paths, lists that are read bit by bit."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Not `asdict`: it would copy everything below at once.
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return list(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)
