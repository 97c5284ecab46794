"""`twin harness report`: what packs and campaigns came to so far."""

from pathlib import Path

import click

from twin import __version__
from twin.cli import show
from twin.cli.door import Door, json_option, pass_door


@click.command(name="report")
@click.argument("packs", nargs=-1, metavar="[PACK ...]", type=click.Path(path_type=Path))
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="FILE",
    help="Also write one self-contained page with plots.",
)
@json_option
@pass_door
def command(door: Door, packs: tuple[Path, ...], html: Path | None, as_json: bool) -> None:
    """What packs and campaigns came to so far; runs nothing.

    Attrition by rule, environments, yield with its reasons, test classes, seconds, and campaigns by
    planner and executor: from the store of the current folder and the packs' manifests. Without
    PACK: the packs in the current folder and every repository in the store.

    \b
    Example:
      twin harness report
      twin harness report a.pack b.pack --html report.html
    """
    import time

    import msgspec

    from twin.cycle.outcomes import outcomes_of
    from twin.cycle.outcomes_page import write_page
    from twin.cycle.outcomes_tables import headline, tables
    from twin.observe.manifest import Manifest, read_manifest
    from twin.observe.packs import find_packs

    if packs:
        known = [(path, read_manifest(path)) for path in packs]
        damaged = []
    else:
        seen = list(find_packs(Path()))
        known = [(path, told) for path, told in seen if isinstance(told, Manifest)]
        damaged = [told for _, told in seen if isinstance(told, str)]
    with door.home_store() as (_, _, store):
        found = outcomes_of(store, known, others=not packs)
    if html is not None:
        made = f"Made {show.when(time.time())} UTC by twin {__version__}"
        write_page(found, html, made)
    if as_json:
        show.as_json(msgspec.to_builtins(found))
        return
    for table in tables(found):
        show.table(table.title, table.columns, table.rows, note=table.note)
    for fault in damaged:
        show.say(f"Left out: {fault}")
    show.say(headline(found))
    if html is not None:
        show.say(f"Written to {html}.")
