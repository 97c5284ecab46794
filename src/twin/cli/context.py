"""`twin context`: what a task touches, as text for a model, within a budget."""

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door, task_argument


@click.command(name="context")
@task_argument
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    default=None,
    metavar="TOKENS",
    help="At most so many tokens; default: `context.window_tokens` less `reserve_tokens`.",
)
@json_option
@pass_door
def command(door: Door, task: str, budget: int | None, as_json: bool) -> None:
    """What a task touches, as Markdown for a model, within a budget.

    The symbols that the task is about whole, then signatures, then names of files. TASK may be `-`
    for stdin.

    \b
    Example:
      twin context "make the retry delay configurable" > context.md
      twin context --budget 4000 "make the retry delay configurable"
    """
    from twin.cycle.answers import context

    with door.place() as place, show.stages(quiet=as_json) as tell:
        located, package = context(
            place.repository,
            place.store,
            place.config,
            task,
            budget_tokens=budget,
            progress=tell,
        )
    if as_json:
        show.as_json({"version": located.version, "notice": located.notice, "package": package})
        return
    if located.notice:
        click.echo(f"twin: {show.clean(located.notice)}", err=True)
    click.echo(package.as_markdown(), nl=False)
