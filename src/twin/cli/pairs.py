"""`twin pairs`: what there is to learn from: build, count, export."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door
from twin.cli.times import moment
from twin.records import PairKind

if TYPE_CHECKING:
    from twin.cycle.pairs import Summary


@click.group(name="pairs", invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Questions with their answers, made from commits and trials; without a command, how many.

    \b
    Example:
      twin pairs build project.pack
      twin pairs --json
      twin pairs export --kind edit --out edit.jsonl --before 2026-01-01
    """
    if ctx.invoked_subcommand is not None:
        return
    from twin.cycle.pairs import pair_summary

    door = ctx.find_object(Door)
    assert door is not None
    with door.home_store() as (_, _, store):
        found = pair_summary(store)
    if as_json:
        show.as_json(found)
    else:
        _tell(found)


@command.command(name="build")
@click.argument("pack", type=click.Path(path_type=Path))
@click.option(
    "--newest",
    type=click.IntRange(min=1),
    default=None,
    help="Only so many commits, the newest; default: all.",
)
@json_option
@pass_door
def build(door: Door, pack: Path, newest: int | None, as_json: bool) -> None:
    """Makes pairs from the commits of a pack, and from validations and trials in the store.

    Runs no tests: `twin harness validate` and `run` come before. Twice adds nothing; what was
    validated or tried since is made anew.

    \b
    Example:
      twin pairs build project.pack --newest 20
    """
    from twin.cycle.pairs import build_pairs

    with door.home_store() as (_, config, store), show.stages(quiet=as_json) as tell:
        found = build_pairs(pack.absolute(), store, config, newest=newest, progress=tell)
    if as_json:
        show.as_json(found)
        return
    title = f"Pairs of {found.pack}"
    show.table(title, ("kind", "pairs"), [(k, found.pairs.get(k, 0)) for k in get_args(PairKind)])
    lost = {**found.dropped, **found.left_out}
    if lost:
        show.table("Left out", ("kind: reason", "times"), lost.items())
    unproved = ""
    if found.num_unvalidated:
        unproved = (
            f" {found.num_unvalidated} are not validated: `twin harness validate` tells which of "
            "them their tests prove."
        )
    show.say(
        f"{found.num_commits} commits in {found.seconds:.1f} s, {found.num_known} known before."
        + unproved
    )


@command.command(name="export")
@click.option("--kind", type=click.Choice(get_args(PairKind)), required=True)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE"
)
@click.option(
    "--stage",
    type=click.Choice(["plan", "edit"]),
    default=None,
    help="Preferences of this stage alone.",
)
@click.option(
    "--before",
    metavar="TIME",
    callback=moment,
    help="Commits earlier than that: 90d (ago), 2026-11-21 or 2026-11-21T08:30 (UTC).",
)
@click.option("--after", metavar="TIME", callback=moment, help="Commits of that moment or later.")
@click.option("--valid", "only_valid", is_flag=True, help="Only of commits that tests prove.")
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=None,
    help="Only pairs that are no longer, by an upper estimate.",
)
@click.option(
    "--per-repository",
    type=click.IntRange(min=1),
    default=None,
    help="At most so many of each repository, chosen by chance.",
)
@click.option(
    "--max-share",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=None,
    metavar="SHARE",
    help="No repository has more than this share of the file, as 0.2.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice by chance.")
@json_option
@pass_door
def export(
    door: Door, /, kind: PairKind, out: Path, stage: str | None, as_json: bool, **how: Any
) -> None:
    """Writes pairs of one kind as JSON lines, oldest first, in the form that TRL reads.

    `messages`, or for preferences `prompt`, `chosen` and `rejected`; `metadata` says where each is
    from. The file is whole or is not written. `--before` and `--after` one moment share no pair.

    \b
    Example:
      twin pairs export --kind edit --out train.jsonl --before 2026-01-01 --max-share 0.2
      twin pairs export --kind preference --stage plan --out plans.jsonl
    """
    from twin.cycle.pairs import export_pairs

    if stage and kind != "preference":
        raise click.UsageError("Only preferences have a stage; leave --stage out")
    with door.home_store() as (_, _, store):
        found = export_pairs(store, out.absolute(), kind, stage=stage or "", **how)
    if as_json:
        show.as_json(found)
        return
    passed = f"; {found.num_passed_over} passed over for balance" if found.num_passed_over else ""
    shares = ", ".join(f"{name} {count}" for name, count in found.repositories.items())
    show.say(
        f"{found.num_rows} pairs, about {found.num_tokens:,} tokens, in {found.file} "
        f"({shares}){passed}."
    )


def _tell(found: "Summary") -> None:
    rows: dict[tuple[str, str], list[int]] = {}
    for one in found.counts:
        kind = f"{one.kind} ({one.stage})" if one.stage else one.kind
        row = rows.setdefault((one.repository, kind), [0, 0, 0, 0])
        if one.dropped_by is None:
            row[0] += one.num_pairs
            row[1] += one.num_pairs if one.validity == "valid" else 0
            row[2] += one.num_tokens
        else:
            row[3] += one.num_pairs
    columns = ("repository", "kind", "pairs", "of valid commits", "tokens", "duplicates")
    note = "" if rows else "None yet; `twin pairs build PACK` makes them."
    show.table("Pairs", columns, [(*key, *row) for key, row in rows.items()], note=note)
    lost = [
        (name, why, n) for name, reasons in found.left_out.items() for why, n in reasons.items()
    ]
    if lost:
        show.table("Left out", ("repository", "kind: reason", "times"), lost)
