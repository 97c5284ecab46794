"""`twin improve`: learn from the past, judge on what came later, put the winner into service."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door, path_argument
from twin.errors import Refused

COLUMNS = ("recall@1", "recall@5", "recall@10", "mrr", "all@5")
"""Of the gate's figures, those that fit on a line. All lie between 0 and 1."""

if TYPE_CHECKING:
    from twin.cycle.improvement import Improvement


@click.command(name="improve")
@path_argument
@click.option("--force", is_flag=True, help="Do every stage again, also where nothing changed.")
@json_option
@pass_door
def command(door: Door, path: Path | None, force: bool, as_json: bool) -> int:
    """Learns a repository, judges on its later commits, serves the winner.

    Mines the history, fits a candidate on the earlier tasks, compares it with BM25 and with the
    model in service on the later ones, and puts it into service if it is better than both. Stopped
    at any moment, the same command goes on from there; where nothing changed it does nothing.

    Exit code 1 if the gate found the candidate worse; "not enough data" is no failure.

    \b
    Example:
      twin improve
      twin improve ~/src/project --json
    """
    from twin.cycle.improvement import STAGES, improve

    with door.place(path) as place, show.stages(STAGES, quiet=as_json) as tell:
        found = improve(place.repository, place.store, place.config, redo=force, progress=tell)
    if as_json:
        show.as_json(found)
    else:
        _tell(found)
    return Refused.exit_code if found.refused else 0


def _tell(found: "Improvement") -> None:
    rows = [
        (name, _role(name, found), *(figures[column] for column in COLUMNS))
        for name, figures in found.figures.items()
    ]
    num = found.num_holdout if found.candidate else found.num_tasks
    which = "later tasks, held out" if found.candidate else "tasks"
    title = f"{found.repository}: {num} {which}"
    if rows:
        show.table(title, ("ranker", "what it is", *COLUMNS), rows)
    show.say(f"Verdict: {found.decision}.")
    for verdict in found.verdicts:
        show.say(f"  {verdict['reason']}")
    if not found.verdicts:
        show.say(f"  {found.reason}")
    show.say(f"In service: {_serving(found)}")
    if found.recipe:
        show.say(f"Recipe: {found.recipe}, learnt from {found.num_train} earlier tasks.")
    show.say(f"Report: {found.report}")
    show.say(_time(found))


def _role(name: str, found: "Improvement") -> str:
    if name == "bm25":
        return "words alone"
    roles = ["candidate"] if name == found.candidate else []
    roles += ["shipped with the package"] if name == "default" else []
    roles += ["in service"] if name == found.in_service else []
    return ", ".join(roles) or "in service before"


def _serving(found: "Improvement") -> str:
    name = "the shipped model" if found.in_service == "default" else found.in_service
    if found.promoted:
        return f"{name}, better than all it was compared with."
    if found.candidate is None or any(each["reason"] in found.reason for each in found.verdicts):
        return f"{name}, as before."
    return f"{name}. {found.reason}"


def _time(found: "Improvement") -> str:
    if len(found.skipped) == len(found.seconds):
        return "Nothing is new since the last run, so nothing was done (`--force` repeats it)."
    parts = [f"{name} {spent:.1f} s" for name, spent in found.seconds.items() if spent]
    return f"Time: {sum(found.seconds.values()):.1f} s ({', '.join(parts)})."
