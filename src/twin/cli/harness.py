"""`twin harness`: commits proved by their own tests, in a sandbox."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door

if TYPE_CHECKING:
    from twin.observe.validate import Breadth
    from twin.records import SandboxLevel


COLUMNS = (
    "commit", "verdict", "fail to pass", "pass to pass", "guards", "flaky", "seconds", "detail",
)  # fmt: skip


@click.group(name="harness")
def command() -> None:
    """Commits proved by their own tests, in a sandbox without a network.

    \b
    Example:
      twin pack ~/src/project
      twin harness validate project.pack --json
    """


@command.command(name="validate")
@click.argument("pack", type=click.Path(path_type=Path))
@click.option(
    "--newest",
    type=click.IntRange(min=1),
    default=None,
    help="Only so many commits, the newest; default: all.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1, max=256),
    default=None,
    help="Processes at once; default: one a core.",
)
@click.option(
    "--tests",
    "breadth",
    type=click.Choice(["targeted", "full"]),
    default="targeted",
    show_default=True,
    help="The test files that a commit changed, or the whole suite.",
)
@click.option(
    "--sandbox",
    "level",
    type=click.Choice(["bubblewrap", "landlock"]),
    default=None,
    help="How to confine the code; default: the strongest that works here.",
)
@json_option
@pass_door
def validate(
    door: Door,
    pack: Path,
    newest: int | None,
    workers: int | None,
    breadth: "Breadth",
    level: "SandboxLevel | None",
    as_json: bool,
) -> None:
    """Runs the tests of each commit of a pack before and after it.

    A commit is valid where at least one test fails before it and passes after it, in every repeat.
    Answers are kept in the store of the current folder; the same command goes on where it was.

    \b
    Example:
      twin harness validate project.pack --newest 20
      twin harness validate project.pack --tests full --json
    """
    from twin.cycle.harness import default_workers, validate_pack

    with door.home_store() as (_, _, store), show.stages(quiet=as_json) as tell:
        found = validate_pack(
            pack.absolute(),
            store,
            store.folder / "environments",
            workers=workers or default_workers(),
            newest=newest,
            breadth=breadth,
            level=level,
            progress=tell,
        )
    if as_json:
        show.as_json(found)
        return
    show.table(
        f"Commits of {found.pack}",
        COLUMNS,
        [
            (
                one.commit_id[:10],
                "valid" if one.is_valid else one.why.replace("_", " "),
                len(one.tests("fail_to_pass")),
                len(one.tests("pass_to_pass")),
                len(one.tests("guard")),
                len(one.tests("flaky")),
                round(one.seconds, 1),
                one.detail[:80],
            )
            for one in found.validations
        ],
    )
    reasons = ", ".join(f"{count} {why.replace('_', ' ')}" for why, count in found.why.items())
    median = "" if found.median_seconds is None else f", {found.median_seconds:.1f} s in the median"
    show.say(
        f"{found.num_valid} of {found.num_commits} valid{median}; {reasons or 'no other'}. "
        f"{found.num_known} known before; sandbox: {', '.join(found.levels) or 'not needed'}."
    )
