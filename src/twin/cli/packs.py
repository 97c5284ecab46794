"""`twin packs`: the packs in a folder, found by their manifests."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twin.cli import show
from twin.cli.door import json_option

if TYPE_CHECKING:
    from twin.observe.manifest import Manifest


@click.command(name="packs")
@click.argument(
    "folder",
    required=False,
    default=Path(),
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)
@json_option
def command(folder: Path, as_json: bool) -> None:
    """The packs in a folder, found by their manifests.

    \b
    Example:
      twin packs /media/usb
    """
    from twin.observe.packs import find_packs

    facts = [
        {"folder": str(path), **(_fault(told) if isinstance(told, str) else _facts(told))}
        for path, told in find_packs(folder)
    ]
    if as_json:
        show.as_json({"packs": facts})
        return
    rows = [tuple((one | {"made_at": show.when(one["made_at"])}).values()) for one in facts]
    note = "" if rows else "None here. `twin pack` makes one."
    columns = ("folder", "repository", "commits", "environments", "Python", "made (UTC)", "")
    show.table("Packs", columns, rows, note=note)


def _facts(told: "Manifest") -> dict[str, Any]:
    return {
        "name": told.name,
        "commits": len(told.commits),
        "environments": len(told.environments),
        "python": ", ".join(told.pythons),
        "made_at": told.made_at,
        "fault": "",
    }


def _fault(reason: str) -> dict[str, Any]:
    unknown = dict.fromkeys(("name", "commits", "environments", "python", "made_at"))
    return {**unknown, "fault": reason}
