"""`twin harness`: commits proved by their own tests, in a sandbox."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door
from twin.cli.harness_report import command as report
from twin.cli.pack_options import campaign_options, tell_refused
from twin.cli.supplement import mutate, supplement

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
      twin harness run project.pack --planner gold
      twin harness report --html report.html
    """


command.add_command(report)
command.add_command(supplement)
command.add_command(mutate)


@command.command(name="validate")
@campaign_options
@json_option
@pass_door
def validate(
    door: Door,
    pack: Path,
    newest: int | None,
    workers: int | None,
    ray: str,
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
    from twin.cycle.harness import validate_pack

    with door.home_store() as (_, _, store), show.stages(quiet=as_json) as tell:
        found = validate_pack(
            pack.absolute(),
            store,
            store.folder / "environments",
            workers=workers,
            ray=ray,
            newest=newest,
            breadth=breadth,
            level=level,
            progress=tell,
        )
        if as_json:
            show.as_json(found)
            return
        rows = [
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
        ]
    show.table(f"Commits of {found.pack}", COLUMNS, rows)
    tell_refused(found.refused)
    reasons = show.counted(found.why, "no other")
    median = "" if found.median_seconds is None else f", {found.median_seconds:.1f} s in the median"
    show.say(
        f"{found.num_valid} of {found.num_commits} valid{median}; {reasons}. "
        f"{found.num_known} known before; sandbox: {', '.join(found.levels) or 'not needed'}."
    )


@command.command(name="run")
@campaign_options
@click.option(
    "--planner",
    type=click.Choice(["gold", "null", "scripted"]),
    default="gold",
    show_default=True,
    help="Who plans: the commit itself, nobody, or a file.",
)
@click.option(
    "--executor",
    type=click.Choice(["gold", "null"]),
    default="gold",
    show_default=True,
    help="Who carries the plan out: the commit's own text as far as the plan asks, or nobody.",
)
@click.option(
    "--script",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=None,
    help='Plans as JSON lines, {"commit": ID, "plan": {...}}, for the scripted planner.',
)
@click.option(
    "--temperatures",
    type=click.IntRange(min=1, max=20),
    default=1,
    show_default=True,
    help="Trials of each commit, at temperatures from 0 to 1.",
)
@click.option(
    "--supplemented",
    is_flag=True,
    help="Also commits that only tests of `twin harness supplement` prove.",
)
@json_option
@pass_door
def run(
    door: Door,
    pack: Path,
    newest: int | None,
    workers: int | None,
    ray: str,
    breadth: "Breadth",
    level: "SandboxLevel | None",
    planner: str,
    executor: str,
    script: Path | None,
    temperatures: int,
    supplemented: bool,
    as_json: bool,
) -> None:
    """Solves the valid commits of a pack from their messages and grades the result by their tests.

    For each: retrieve at the parent, plan, carry out, validate. Every finished step is kept, and
    the same command goes on at the exact step. *gold* is the upper bound, *null* the lower one.

    \b
    Example:
      twin harness run project.pack --planner gold
      twin harness run project.pack --planner scripted --script plans.jsonl --json
    """
    from twin.cycle.campaign import run_campaign

    steps = max(temperatures - 1, 1)
    with door.home_store() as (_, config, store), show.stages(quiet=as_json) as tell:
        found = run_campaign(
            pack.absolute(),
            store,
            config,
            planner=planner,
            executor=executor,
            temperatures=[number / steps for number in range(temperatures)],
            script=script.absolute() if script else None,
            workers=workers,
            ray=ray,
            newest=newest,
            breadth=breadth,
            supplemented=supplemented,
            level=level,
            progress=tell,
        )
    if as_json:
        show.as_json(found)
        return
    show.table(
        f"{found.planner} plans, {found.executor} carries out: {found.pack}",
        ("commit", "temperature", "outcome", "alignment", "tests that fail", "detail"),
        [
            (
                one.commit_id[:10],
                one.temperature,
                "solved" if one.is_solved else one.why.replace("_", " "),
                one.alignment,
                one.num_failed,
                one.detail[:80],
            )
            for one in found.trials
        ],
    )
    tell_refused(found.refused)
    fit = "" if found.mean_alignment is None else f"; mean alignment {found.mean_alignment:.2f}"
    show.say(
        f"{found.num_solved} of {len(found.trials)} solved, of {found.num_valid} valid commits "
        f"among {found.num_commits}, and {found.num_won} valid by generated tests{fit}."
    )
