"""`twin packs`: the packs in a folder, found by their manifests."""

from pathlib import Path

import click

from twin.cli import show
from twin.cli.door import json_option


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
    from twin.observe.manifest import Manifest
    from twin.observe.packs import find_packs

    found = list(find_packs(folder))
    facts = [
        {
            "folder": str(path),
            "name": told.name if isinstance(told, Manifest) else None,
            "commits": len(told.commits) if isinstance(told, Manifest) else None,
            "environments": len(told.environments) if isinstance(told, Manifest) else None,
            "python": told.python if isinstance(told, Manifest) else None,
            "made_at": told.made_at if isinstance(told, Manifest) else None,
            "fault": "" if isinstance(told, Manifest) else told,
        }
        for path, told in found
    ]
    if as_json:
        show.as_json({"packs": facts})
        return
    rows = [
        (
            one["folder"],
            one["name"],
            one["commits"],
            one["environments"],
            one["python"],
            show.when(told.made_at if isinstance(told, Manifest) else None),
            one["fault"],
        )
        for one, (_, told) in zip(facts, found, strict=True)
    ]
    note = "" if rows else "None here. `twin pack` makes one."
    columns = ("folder", "repository", "commits", "environments", "Python", "made (UTC)", "")
    show.table("Packs", columns, rows, note=note)
