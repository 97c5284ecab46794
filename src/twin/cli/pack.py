"""`twin pack`: a repository with everything that its tests need, in one folder."""

from pathlib import Path

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door, path_argument


@click.command(name="pack")
@path_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FOLDER",
    help="Where to write it; default: NAME.pack in the current folder.",
)
@click.option(
    "--newest",
    type=click.IntRange(min=1),
    default=None,
    help="Only so many commits, the newest; default: all that qualify.",
)
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="PATH|VERSION",
    help="An interpreter of this machine to run tests on, as 3.12; several: each commit gets the "
    "first that it allows. Default: the one this program runs on.",
)
@json_option
@pass_door
def command(
    door: Door,
    path: Path | None,
    out: Path | None,
    newest: int | None,
    pythons: tuple[str, ...],
    as_json: bool,
) -> None:
    """A repository with everything that its tests need, in one folder.

    Takes the commits that change source and tests, resolves what they need as of their day,
    downloads it, and tries every environment on the whole suite. This asks a package index; what it
    writes works without a network, on machines of the same kind.

    \b
    Example:
      twin pack ~/src/project --newest 100 --out project.pack
      twin pack ~/src/project --python 3.11 --python 3.13
      twin harness validate project.pack
    """
    from twin.cycle.harness import pack_now

    with door.place(path) as place, show.stages(quiet=as_json) as tell:
        repository = place.repository
        target = out or Path(f"{repository.root.resolve().name}.pack")
        made = pack_now(
            repository, place.store, place.config, target.absolute(), newest=newest,
            pythons=pythons, progress=tell,
        )  # fmt: skip
    if as_json:
        show.as_json(
            {
                "folder": str(target.absolute()),
                "name": made.name,
                "commits": len(made.commits),
                "environments": [
                    {name: getattr(one, name) for name in one.__struct_fields__}
                    for one in made.environments
                ],
                "failed": made.failed,
            }
        )
        return
    rows = [
        (
            one.key[:8],
            one.python,
            one.until,
            one.num_commits,
            len(one.packages),
            one.num_passing,
            one.num_tests,
            one.fault or (f"its build: {one.built}" if one.built else ""),
        )
        for one in made.environments
    ]
    counted = sum(one.num_commits for one in made.environments if not one.fault)
    note = (
        f"{len(made.commits):,} commits, {counted:,} with an environment in which the tests pass; "
        f"{len(made.failed):,} whose needs cannot be resolved. Written to {target}."
    )
    columns = ("environment", "Python", "as of", "commits", "packages", "passing", "tests", "")
    show.table(f"Pack of {made.name}", columns, rows, note=note)
