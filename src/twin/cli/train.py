"""`twin train`: learn from what was recorded. `twin train router`: which model a request needs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door
from twin.errors import Refused

if TYPE_CHECKING:
    from twin.cycle.routing import RouterTraining, Split

_SPLITS = {
    "time": "later requests, held out",
    "subject": "requests of held-out subjects",
    "order": "requests at the end, held out",
    "rows": "requests drawn by chance, held out",
}
COLUMNS = ("router", "APGR", "CPT 50 %", "CPT 80 %", "calibration error")


@click.group(name="train")
def command() -> None:
    """Learns from recorded calls, or from a file of evaluation answers.

    \b
    Example:
      twin train router
      twin train router --json
    """


@command.command(name="router")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=None,
    metavar="FILE",
    help="JSON lines with prompt, weak_correct, strong_correct instead of recorded calls.",
)
@click.option(
    "--split",
    type=click.Choice(list(_SPLITS)),
    default=None,
    help="What is held out. Default: the latest; without times whole subjects, else the end.",
)
@json_option
@pass_door
def router(door: Door, data: Path | None, split: "Split | None", as_json: bool) -> int:
    """Learns which requests need the bigger model, judges on later ones, serves the winner.

    Learns from recorded calls: what was escalated, scored with feedback, asked again or accepted.
    The last fifth is held out; the candidate goes into service if it is better there than the rules
    and than the version in service. APGR is the share of the gap between the models that routing
    recovers on average (chance: 0.5), CPT the share of requests that must go to the bigger model to
    recover half, or four fifths, of it.

    Exit code 1 if there is too little to learn from, or if the candidate is worse; "not enough
    data" to tell is no failure.

    \b
    Example:
      twin train router
      twin train router --data answers.jsonl.gz --json
    """
    from twin.cycle.routing import STEPS, train_router

    with (
        door.home_store() as (home, config, store),
        show.stages(STEPS, quiet=as_json) as tell,
    ):
        found = train_router(store, config, home.name, data=data, split=split, progress=tell)
    if as_json:
        show.as_json(found)
    else:
        _tell(found)
    return Refused.exit_code if found.refused else 0


def _tell(found: "RouterTraining") -> None:
    rows = [
        (name, *(figures[key] for key in ("apgr", "cpt50", "cpt80", "ece")))
        for name, figures in found.figures.items()
    ]
    show.table(f"{found.num_holdout} {_SPLITS[found.split]}", COLUMNS, rows)
    interval = found.figures[found.candidate].get("apgr_interval")
    if interval:
        low, high = interval
        show.say(f"APGR of {found.candidate}: 95 % interval {low:.2f} to {high:.2f}.")
    if found.num_holdout_both < found.num_holdout:
        show.say(f"Both models' answers are known of {found.num_holdout_both} of them.")
    show.say(f"Verdict: {found.decision}.")
    for verdict in found.verdicts:
        show.say(f"  {verdict['reason']}")
    show.say(f"In service: {found.in_service}")
    show.say(
        f"Recipe: {found.recipe}, {found.calibration} calibration, learnt from "
        f"{found.num_train} requests."
    )
    for why, count in sorted(found.dropped.items()):
        show.say(f"Left out: {count}, {why}.")
