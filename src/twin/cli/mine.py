"""`twin mine`: what a history holds, and what each rule removed."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door, path_argument

if TYPE_CHECKING:
    from twin.cycle.past import Mined


@click.command(name="mine")
@path_argument
@json_option
@pass_door
def command(door: Door, path: Path | None, as_json: bool) -> None:
    """What a history holds: commits, labels, and what each rule removed.

    Only commits that were not mined before are read.

    \b
    Example:
      twin mine
      twin mine ~/src/project --json
    """
    from twin.cycle.past import mine_now

    with door.place(path, needs_sources=False) as place, show.stages(quiet=as_json) as tell:
        mined = mine_now(place.repository, place.store, place.config, progress=tell)
    if as_json:
        show.as_json(mined)
        return
    rows = [
        (row.rule.replace("_", " "), row.removed, row.remaining, _share(row.remaining, mined))
        for row in mined.attrition
    ]
    show.table(f"Attrition of {mined.repository}", ("rule", "removed", "left", "share"), rows)
    labels = [(name.replace("_", " "), count) for name, count in mined.labels.items()]
    note = (
        f"{mined.num_commits:,} commits, {mined.num_new:,} of them new, {mined.num_kept:,} kept; "
        f"{mined.seconds:.1f} s."
    )
    show.table("Labels", ("label", "commits"), labels, note=note)


def _share(remaining: int, mined: "Mined") -> str:
    return f"{100 * remaining / max(mined.num_commits, 1):.1f} %"
