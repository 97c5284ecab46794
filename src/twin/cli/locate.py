"""`twin locate`: which files and symbols a task touches, and why."""

from typing import TYPE_CHECKING

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door, task_argument

if TYPE_CHECKING:
    from twin.cycle.answers import Located


@click.command(name="locate")
@task_argument
@click.option(
    "--limit",
    type=click.IntRange(min=1, max=1000),
    default=10,
    show_default=True,
    help="How many files.",
)
@click.option("--explain", is_flag=True, help="Every reason, with what it added to the score.")
@click.option("--no-symbols", is_flag=True, help="Files only.")
@json_option
@pass_door
def command(
    door: Door, task: str, limit: int, explain: bool, no_symbols: bool, as_json: bool
) -> None:
    """Which files and symbols a task touches, best first, and why.

    TASK is a sentence, as one would put it to a colleague; `-` reads it from stdin. Files that the
    author of new commits (git's user.email) changed lately count more.

    \b
    Example:
      twin locate "make the retry delay configurable"
      twin locate --explain "make the retry delay configurable"
      git log -1 --format=%B | twin locate -
    """
    from twin.cycle.answers import locate

    with door.place() as place, show.stages(quiet=as_json) as tell:
        located = locate(
            place.repository,
            place.store,
            place.config,
            task,
            limit=limit,
            with_symbols=not no_symbols,
            progress=tell,
        )
    if as_json:
        show.as_json(located)
        return
    if located.notice:
        click.echo(f"twin: {show.clean(located.notice)}", err=True)
    _files(located, explain)
    if not no_symbols:
        _symbols(located)
    answer = located.answer
    show.say(
        f"{answer.num_candidates:,} files ranked by {_model(located)} in "
        f"{1000 * answer.seconds:.0f} ms."
    )


def _files(located: "Located", explain: bool) -> None:
    rows: list[tuple[object, ...]] = []
    for rank, file in enumerate(located.answer.files, start=1):
        reasons = [
            f"{reason.text} ({reason.amount:+.2f})" if explain else reason.text
            for reason in file.reasons
        ]
        first = reasons[0] if reasons else ""
        rows.append((f"{rank:4}", file.path, f"{100 * file.share:.0f} %", first))
        if explain:
            rows.extend(("", "", "", reason) for reason in reasons[1:])
    show.table("Files", ("rank", "file", "share", "why"), rows)


def _symbols(located: "Located") -> None:
    rows = [
        (file.path, symbol.name, symbol.kind, f"{symbol.start_line}-{symbol.end_line}", symbol.tier)
        for file in located.answer.files
        for symbol in file.symbols
    ]
    if rows:
        show.table("Symbols", ("file", "symbol", "kind", "lines", "tier"), rows)


def _model(located: "Located") -> str:
    return "the shipped model" if located.version == "default" else located.version
