"""`twin lm compare`: which variant of the network is better, and which differences are real."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door
from twin.cli.lm_door import amount, models_folder, need_torch, seconds, sentences
from twin.errors import UsageError

if TYPE_CHECKING:
    from twin.lm.corpus import Corpus
    from twin.lm.recipe import Recipe
    from twin.lm.standings import Standing

DEFAULT_VARIANTS = "GF-MH,GF,HGF,HY,WS,RF,CP,MINGRU,rwkv,mamba"
DEFAULT_TOKENS = 500_000


@click.command(name="compare")
@click.option(
    "--text", multiple=True, required=True, metavar="PATH", help="A file, folder or pattern."
)
@click.option(
    "--variants",
    default=DEFAULT_VARIANTS,
    show_default=True,
    metavar="A,B,...",
    help="Fusions (with -MH, -RH), rwkv, mamba; each with options, as GF-MH+shift+gamma.",
)
@click.option("--seeds", type=click.IntRange(min=1, max=100), default=3, show_default=True)
@click.option("--tokens", callback=amount, metavar="N", help="Of each run.  [default: 500k]")
@click.option(
    "--time-budget",
    callback=seconds,
    metavar="TIME",
    help="CPU time of each run, as 1m.  [default: what the first variant's tokens take]",
)
@click.option("--only", type=click.Choice(["tokens", "time"]), default=None, help="One question.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="At once.")
@click.option("--preset", default=None, help="Sizes: 3.5M, 5M, 8M, 30M or 125M.  [default: 5M]")
@click.option("--tokenizer", default=None, help="char, byte or bpe; default: the preset's.")
@click.option("--batch", type=int, default=None, help="Streams side by side.  [default: 16]")
@click.option("--window", type=int, default=None, help="Tokens of each a step.  [default: 256]")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any recipe value.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    metavar="FOLDER",
    help="Where runs, tables and the plot are kept; default: .twin/lm/.compare.",
)
@json_option
@pass_door
def command(door: Door, /, as_json: bool, out: Path | None, **given: Any) -> int:
    """Trains every variant with every seed and says which differences are real.

    All variants have the same number of parameters (the feed-forward layers make up for it) and in
    each seed the same order of the data. They are compared at equal tokens, and at equal CPU time
    on one thread. Finished runs are kept: the same command goes on after an interruption.

    \b
    Example:
      twin lm compare --text shakespeare.txt --variants GF-MH,HY,rwkv,mamba --tokens 500k
      twin lm compare --text . --seeds 5 --time-budget 1m --jobs 4
    """
    need_torch("A comparison")
    with sentences():
        from twin.lm.evidence import CORPORA
        from twin.lm.standings import as_dict, standings, write_all
        from twin.lm.tournament import Plan, run_tournament

        recipe = _recipe(given)
        plan = Plan(
            names=tuple(name.strip() for name in given["variants"].split(",") if name.strip()),
            recipe=recipe,
            num_seeds=given["seeds"],
            tokens=given["tokens"] or (0 if given["time_budget"] else DEFAULT_TOKENS),
            cpu_s=given["time_budget"] or 0.0,
            modes=(given["only"],) if given["only"] else ("tokens", "time"),
            jobs=given["jobs"],
        )
        cache = models_folder(door) / CORPORA
        folder = out or models_folder(door) / ".compare"
        with show.stages(quiet=as_json) as tell:
            corpus = _corpus(given["text"], recipe, cache, tell)
            found = run_tournament(plan, corpus, cache, folder, tell=tell)
        tables = standings(found)
        write_all(found, tables, folder)
    if as_json:
        show.as_json(as_dict(found, tables))
    else:
        for table in tables:
            _tell(table)
        show.say(f"Tables, plot and every run: {folder}")
    return 0


def _recipe(given: dict[str, Any]) -> "Recipe":
    from twin.lm.recipe import Recipe, changed, parse_setting

    settings = dict(map(parse_setting, given["settings"]))
    for option in ("preset", "tokenizer", "batch", "window"):
        if given[option] is not None:
            settings[option] = given[option]
    taken = {"steps", "tokens", "time_budget_s", "threads", "stop_early"} & set(settings)
    if taken:
        raise UsageError(f"{', '.join(sorted(taken))} is what a comparison decides. Leave it out.")
    return changed(Recipe(), settings)


def _corpus(paths: tuple[str, ...], recipe: "Recipe", cache: Path, tell: show.Tell) -> "Corpus":
    from twin.lm.corpus import Wanted, prepare
    from twin.lm.documents import TextFiles
    from twin.lm.tokenizer import Kind

    kind: Kind = recipe.tokenizer_kind
    assert kind in get_args(Kind)
    wanted = Wanted(kind=kind, vocab_size=recipe.vocab_size, control_tokens=recipe.control_tokens)
    return prepare(TextFiles(paths=paths), wanted, cache, held_out=recipe.held_out, tell=tell)


def _tell(table: "Standing") -> None:
    rows = [
        (
            row.variant,
            row.num_parameters,
            row.validation,
            row.deviation,
            row.validation_carried,
            row.tokens,
            round(row.cpu_s),
            round(row.tokens_per_cpu_s),
            ", ".join(row.worse_than) or "-",
        )
        for row in table.rows
    ]
    columns = ("variant", "parameters", "validation", "sd", "carried", "tokens", "CPU s",
               "tok/CPU s", "really worse than")  # fmt: skip
    show.table(table.title, columns, rows, note=table.summary)
