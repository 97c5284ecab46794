"""`twin unpack`: a place to work by hand, from a pack."""

from pathlib import Path

import click

from twin.cli import show
from twin.cli.door import json_option


@click.command(name="unpack")
@click.argument("pack", type=click.Path(path_type=Path))
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FOLDER",
    help="Where to; default: the project's name in the current folder.",
)
@click.option(
    "--at",
    default="HEAD",
    show_default=True,
    metavar="COMMIT",
    help="The commit to check out, with the environment of its day.",
)
@json_option
def command(pack: Path, into: Path | None, at: str, as_json: bool) -> None:
    """A work tree with a ready environment from a pack, to debug a commit by hand.

    Clones the pack's repository, installs the pack's wheels in `.venv`, offline, and prints the
    command that runs the commit's tests. Nothing of the project is run; that command, given by
    hand, runs it without a sandbox.

    \b
    Example:
      twin unpack project.pack --at 1a2b3c4 --into debug
    """
    from twin.observe.unpacking import unpack

    made = unpack(pack, into, at=at)
    if as_json:
        show.as_json(made)
        return
    show.say(
        f"Commit {made.commit_id[:10]} is in {made.folder}, environment {made.environment[:8]}."
    )
    if not made.is_own:
        show.say("It was not packed: the environment is that of the nearest commit that was.")
    if made.fault:
        show.say(f"The environment does not count: {made.fault}.")
    what = f"the {len(made.tests)} test files it changed" if made.tests else "the whole suite"
    show.say(f"Nothing of the project was run. This runs {what}, without a sandbox:")
    show.say(f"  {made.command}")
