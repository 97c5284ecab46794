"""`twin index`: what is in the files of HEAD."""

from pathlib import Path

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door, path_argument


@click.command(name="index")
@path_argument
@json_option
@pass_door
def command(door: Door, path: Path | None, as_json: bool) -> None:
    """What is in the files of HEAD: symbols, imports, languages.

    Only contents that were never seen before, in whatever commit, are parsed.

    \b
    Example:
      twin index
      twin index ~/src/project --json
    """
    from twin.cycle.past import index_now

    with door.place(path) as place, show.stages(quiet=as_json) as tell:
        indexed = index_now(place.repository, place.store, place.config, progress=tell)
    if as_json:
        show.as_json(indexed)
        return
    note = (
        f"{indexed.num_files:,} files with {indexed.num_symbols:,} symbols and "
        f"{indexed.num_imports:,} imports between them; {indexed.num_parsed:,} contents parsed, "
        f"{indexed.num_cached:,} known before, {indexed.num_skipped:,} files not worth reading; "
        f"{indexed.seconds:.1f} s."
    )
    title = f"Index of {indexed.repository} at {indexed.head[:10]}"
    show.table(title, ("language", "files"), indexed.languages.items(), note=note)
