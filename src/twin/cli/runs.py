"""`twin runs`: what was run on this repository, and how it ended."""

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door
from twin.records import Run


@click.command(name="runs")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How many, the newest first.",
)
@json_option
@pass_door
def command(door: Door, limit: int, as_json: bool) -> None:
    """What was run on this repository, and how it ended.

    \b
    Example:
      twin runs --limit 5
    """
    with door.store() as store:
        runs = store.runs.runs(limit)
    if as_json:
        show.as_json({"runs": runs})
        return
    columns = ("run", "command", "repository", "started (UTC)", "seconds", "status", "stages (s)")
    rows = [
        (
            run.run_id,
            run.command,
            run.repository,
            show.when(run.started_at),
            None if run.ended_at is None else round(run.ended_at - run.started_at),
            run.status,
            _stages(run),
        )
        for run in runs
    ]
    note = "" if rows else "None yet. `twin improve` makes the first."
    show.table("Runs", columns, rows, note=note)


def _stages(run: Run) -> str:
    """`fit 15.2, judge 1.9`: the stages that took time."""
    spent = run.result.get("seconds")
    if not isinstance(spent, dict):
        return ""
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items() if seconds >= 0.05)
