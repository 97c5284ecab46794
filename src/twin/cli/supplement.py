"""`twin harness supplement` and `twin harness mutate`: more tasks than commits prove themselves."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door
from twin.cli.pack_options import campaign_options, sandbox_option, tell_refused, workers_option

if TYPE_CHECKING:
    from twin.observe.validate import Breadth
    from twin.records import SandboxLevel

GENERATORS = ("guards", "examples", "characterization", "backend")


@click.command(name="supplement")
@campaign_options
@click.option(
    "--generator",
    "generators",
    type=click.Choice(GENERATORS),
    multiple=True,
    help="Who proposes tests; may be given several times. Default: all that need no model.",
)
@click.option(
    "--model",
    default="",
    help="A model of the configuration, [models.NAME], for the generator `backend`.",
)
@json_option
@pass_door
def supplement(
    door: Door,
    pack: Path,
    newest: int | None,
    workers: int | None,
    ray: str,
    breadth: "Breadth",
    level: "SandboxLevel | None",
    generators: tuple[str, ...],
    model: str,
    as_json: bool,
) -> None:
    """Looks for tests where those of a commit do not prove it, or miss lines that it changed.

    A generated test counts only if it fails before the commit and passes after it, in every repeat.
    Answers are kept in the store of the current folder; the same command goes on where it was.

    \b
    Example:
      twin harness supplement project.pack
      twin harness supplement project.pack --generator backend --model big --json
    """
    from twin.cycle.supplement import MODELLESS, supplement_pack

    wanted = generators or (*MODELLESS, *(["backend"] if model else []))
    if ("backend" in wanted) != bool(model):
        raise click.UsageError("The generator `backend` and `--model` go together: give both.")
    with door.home_store() as (_, config, store), show.stages(quiet=as_json) as tell:
        found = supplement_pack(
            pack.absolute(),
            store,
            config,
            generators=wanted,
            model=model,
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
    show.table(
        f"Tests found for {found.pack}",
        ("commit", "own tests", "verdict", "lines run", "proposed", "accepted", "seconds"),
        [
            (
                one.commit_id[:10],
                "valid" if not one.natural else one.natural.replace("_", " "),
                "proved" if one.proof else one.why.replace("_", " "),
                f"{one.coverage.num_covered} of {one.coverage.num_changed}"
                if one.coverage
                else None,
                len(one.proposals),
                sum(not proposal.why for proposal in one.proposals),
                round(one.seconds, 1),
            )
            for one in found.supplements
        ],
    )
    tell_refused(found.refused)
    reasons = show.counted(found.why, "no other")
    show.say(
        f"{found.num_natural} of {found.num_commits} valid by themselves, {found.num_won} more by "
        f"generated tests, {found.num_strengthened} strengthened; {reasons}. "
        f"{found.num_known} known before."
    )


@click.command(name="mutate")
@click.argument("pack", type=click.Path(path_type=Path))
@click.option(
    "--count",
    type=click.IntRange(min=1, max=100_000),
    default=20,
    show_default=True,
    help="Faults to try.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which faults, in what order.")
@workers_option
@sandbox_option
@json_option
@pass_door
def mutate(
    door: Door,
    pack: Path,
    count: int,
    seed: int,
    workers: int | None,
    level: "SandboxLevel | None",
    as_json: bool,
) -> None:
    """Plants faults into the newest code of a pack; those that a few tests see become tasks.

    One fault at a time, in a line that passing tests run. The fix is the text as it was. Answers
    are kept in the store of the current folder; the same command goes on where it was.

    \b
    Example:
      twin harness mutate project.pack --count 50
      twin harness mutate project.pack --seed 1 --json
    """
    from twin.cycle.mutate import mutate_pack

    with door.home_store() as (_, _, store), show.stages(quiet=as_json) as tell:
        found = mutate_pack(
            pack.absolute(),
            store,
            count=count,
            seed=seed,
            workers=workers,
            level=level,
            progress=tell,
        )
    if as_json:
        show.as_json(found)
        return
    show.table(
        f"Faults planted into {found.pack} at {found.commit_id[:10]}",
        ("place", "function", "fault", "verdict", "tests that fail", "seconds"),
        [
            (
                f"{one.path}:{one.line}",
                one.symbol,
                one.operator.replace("_", " "),
                "task" if not one.why else one.why.replace("_", " "),
                len(one.proof.tests("fail_to_pass")) if one.proof else None,
                round(one.seconds, 1),
            )
            for one in found.mutants
        ],
    )
    reasons = show.counted(found.why, "no other")
    show.say(
        f"{found.num_accepted} of {found.num_tried} make a task; {reasons}. "
        f"{found.num_known} known before."
    )
