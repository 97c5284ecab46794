"""Options of the commands that work on a whole pack, and what all of them say at the end."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from twin.cli import show

Command = TypeVar("Command", bound=Callable[..., Any])

sandbox_option = click.option(
    "--sandbox",
    "level",
    type=click.Choice(["bubblewrap", "landlock"]),
    default=None,
    help="How to confine the code; default: the strongest that works here.",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1, max=256),
    default=None,
    help="Processes at once; default: one a core.",
)
ray_option = click.option(
    "--ray",
    default="",
    metavar="ADDRESS",
    help="Work on the nodes of this Ray cluster; `local` starts one here.",
)


def campaign_options(command: Command) -> Command:
    """What every campaign over a pack is told."""
    for option in (
        sandbox_option,
        click.option(
            "--tests",
            "breadth",
            type=click.Choice(["targeted", "full"]),
            default="targeted",
            show_default=True,
            help="The test files that a commit changed, or the whole suite.",
        ),
        workers_option,
        ray_option,
        click.option(
            "--newest",
            type=click.IntRange(min=1),
            default=None,
            help="Only so many commits, the newest; default: all.",
        ),
        click.argument("pack", type=click.Path(path_type=Path)),
    ):
        command = option(command)
    return command


def tell_refused(refused: Mapping[str, str]) -> None:
    """The machines of a cluster that could not take part, and why."""
    for machine, why in refused.items():
        show.say(f"{machine} did not take part: {why}")
