"""`twin pretrain`: a small language model of one's own, from text, in minutes on a CPU."""

import math
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door
from twin.cli.lm_door import checkpoint_folder, models_folder, need_torch, seconds, sentences
from twin.cli.training_line import watched
from twin.errors import Refused, UsageError

if TYPE_CHECKING:
    from twin.lm.corpus import Corpus
    from twin.lm.documents import Source
    from twin.lm.pretrain import Result
    from twin.lm.recipe import Recipe

_OFTEN = 15
"""Times through a text from where on teachers are proposed: at 16, 23 and 38 they are worth 0.08 to
0.09 nats a character, at 12 they cost 0.07, at seven 0.08."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@click.command(name="pretrain")
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option("--text", multiple=True, metavar="PATH", help="A file, folder or pattern of text.")
@click.option("--jsonl", multiple=True, metavar="FILE", help="JSON lines with one text each.")
@click.option("--field", default=None, help="The text's field in them.  [default: text]")
@click.option("--git", metavar="PATH", help="The source files of a repository's last commit.")
@click.option("--suffix", multiple=True, metavar=".EXT", help="Only files with such names.")
@click.option("--out", "name", default=None, metavar="NAME", help="The model's name.")
@click.option("--preset", default=None, help="Its size: 3.5M, 5M, 8M, 30M or 125M.  [default: 5M]")
@click.option("--tokenizer", default=None, help="char, byte or bpe; default: the preset's.")
@click.option("--time-budget", callback=seconds, metavar="TIME", help="As 90s or 10m, the default.")
@click.option(
    "--steps", type=click.IntRange(min=1), default=None, help="Updates instead of a time."
)
@click.option("--batch", type=int, default=None, help="Streams side by side.  [default: 16]")
@click.option("--window", type=int, default=None, help="Tokens of each a step.  [default: 256]")
@click.option("--seed", type=int, default=None, help="Of weights, order and dropout.")
@click.option("--threads", type=int, default=None, help="Cores to use; default: all.")
@click.option("--kernels", default=None, help="auto, native, chunked, compiled, reference, triton.")
@click.option("--teacher", multiple=True, metavar="NAME", help="A model to learn from as well.")
@click.option(
    "--teachers",
    type=int,
    default=None,
    metavar="N",
    help="Trains so many first, in half the time at most, and learns from them; 3 for one.",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any recipe value.")
@click.option("--resume", is_flag=True, help="Goes on where a run of this name was ended.")
@click.option("--force", is_flag=True, help="Replaces a model or run of this name.")
@json_option
@pass_door
def command(
    door: Door, /, name: str | None, resume: bool, force: bool, as_json: bool, **given: Any
) -> int:
    """Trains a language model from scratch; it ends up in .twin/lm/NAME, with plots.

    The schedule follows the clock: a run of 3 minutes is a whole run. The last tenth of the text
    is held out and tells how good the model is. An interrupted run goes on with `--resume`; what
    is there under the same name is replaced with `--force` only.
    RECIPE is a TOML file; options go before what is in it.

    Where the time is enough for fifteen times the text and more, `--teachers 3` may make more of
    it; where it is not, less.

    Exit code 1 if a stop rule ended the run: the best model so far is there all the same.

    \b
    Example:
      twin pretrain --text shakespeare.txt --time-budget 3m
      twin pretrain --git . --preset 8M --out mine --set model.dropout=0.1
      twin pretrain --git . --preset 8M --out better --teacher mine
      twin pretrain --text shakespeare.txt --time-budget 1h --teachers 3
    """
    follows = os.environ.get("RANK", "0") != "0"  # one of several processes, and not the first
    with sentences():
        source, called = _source(given)
        name = name or called
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no name for a model. Use letters, digits, . _ + and -.")
        if resume and force:
            raise UsageError("`--resume` goes on and `--force` begins anew. Give one of them.")
        root = models_folder(door)
        given["teacher"] = [_teacher(door, one) for one in given["teacher"]]
        number, kept = given["teachers"], None
        if resume:
            kept, number = _kept(given, root / name)
        recipe = _recipe(given, kept)
        need_torch("Training")
        quiet = as_json or follows
        result = _train(
            recipe, source, root, name, teachers=number, resume=resume, force=force, quiet=quiet
        )
    if as_json and not follows:
        show.as_json({name: _plain(value) for name, value in asdict(result).items()})
    elif not follows:
        _tell(result, taught=bool(number or recipe.teachers))
    return 0 if result.finished else Refused.exit_code


def _teacher(door: Door, name: str) -> str:
    """Its folder; whether it is there is asked before the text is read, which may take long."""
    from twin.lm.checkpoint import load_config

    folder = checkpoint_folder(door, name)
    load_config(folder)
    return str(folder)


def _source(given: dict[str, Any]) -> "tuple[Source, str]":
    """Where the text is, and what a model of it is called."""
    from twin.lm.documents import SOURCE_SUFFIXES, GitTree, JsonLines, TextFiles

    kinds = [kind for kind in ("text", "jsonl", "git") if given[kind]]
    if len(kinds) != 1:
        raise UsageError("Give the text by one of `--text`, `--jsonl` and `--git`.")
    if given["field"] and not given["jsonl"]:
        raise UsageError("`--field` names a field of JSON lines. Give it with `--jsonl` only.")
    if given["suffix"] and given["jsonl"]:
        raise UsageError("`--suffix` chooses files. Give it with `--text` or `--git` only.")
    first = given["git"] or [*given["text"], *given["jsonl"]][0]
    called = re.sub(r"[^A-Za-z0-9._+-]+", "-", Path(first).resolve().stem).strip("-.") or "model"
    if given["git"]:
        return GitTree(path=given["git"], suffixes=given["suffix"] or SOURCE_SUFFIXES), called
    if given["jsonl"]:
        return JsonLines(paths=given["jsonl"], field_name=given["field"] or "text"), called
    return TextFiles(paths=given["text"], suffixes=given["suffix"]), called


def _kept(given: dict[str, Any], folder: Path) -> "tuple[Recipe | None, int | None]":
    """The recipe of the run that is continued, where no file takes its place, and how many teachers
    of its own it has."""
    need_torch("Training")
    from twin.lm.pretrain import saved_recipe
    from twin.lm.schooling import kept

    asked, school = given["teachers"], kept(folder)
    if school is None:  # a snapshot is large: not read for nothing
        return None if given["recipe"] is not None else saved_recipe(folder), asked
    recipe, number = school
    return recipe, number if asked is None else asked


def _recipe(given: dict[str, Any], kept: "Recipe | None") -> "Recipe":
    """From the file, or from the run that is continued; then the options."""
    from twin.lm.recipe import Recipe, changed, load_recipe, parse_setting

    recipe = kept or Recipe()
    if given["recipe"] is not None:
        recipe = load_recipe(given["recipe"])
    settings = dict(map(parse_setting, given["settings"]))
    if given["teacher"]:
        settings["teachers"] = given["teacher"]
    if given["teacher"] or given["teachers"] is not None:
        settings = {"order": "windows", **settings}
    for option in ("preset", "tokenizer", "batch", "window", "seed", "threads", "kernels"):
        if given[option] is not None:
            settings[option] = given[option]
    budgets = [f"`--set {name}`" for name in ("time_budget_s", "steps", "tokens")
               if settings.get(name)]  # fmt: skip
    budgets += [f"`--{name.replace('_', '-')}`" for name in ("time_budget", "steps")
                if given[name] is not None]  # fmt: skip
    if len(budgets) > 1:
        raise UsageError(f"A run has one budget. Give one of {', '.join(budgets)}.")
    if given["time_budget"] is not None:
        settings |= {"time_budget_s": given["time_budget"], "steps": 0, "tokens": 0}
    if given["steps"] is not None:
        settings |= {"steps": given["steps"], "time_budget_s": 0.0, "tokens": 0}
    recipe = changed(recipe, settings)
    return replace(recipe, teachers=tuple(str(Path(one).resolve()) for one in recipe.teachers))


def _train(
    recipe: "Recipe", source: "Source", root: Path, name: str, *,
    teachers: int | None, resume: bool, force: bool, quiet: bool,
) -> "Result":  # fmt: skip
    from twin.lm import place
    from twin.lm.corpus import Wanted, prepare
    from twin.lm.pretrain import pretrain
    from twin.lm.schooling import attend, share_out

    school = None if teachers is None else share_out(recipe, teachers)
    if not resume and not force:
        place.check_free(root / name)  # before the text is read, which may take long
    wanted = Wanted(
        kind=recipe.tokenizer_kind,
        vocab_size=recipe.vocab_size,
        control_tokens=recipe.control_tokens,
    )
    with show.stages(quiet=quiet) as tell:
        corpus = prepare(source, wanted, root / ".corpora", held_out=recipe.held_out, tell=tell)
    if not quiet:
        show.say(_about(corpus))
    try:
        with watched(quiet=quiet) as line, _ends_between_steps() as asked:
            if school is None:
                return pretrain(
                    recipe, corpus, root / name, resume=resume, force=force, tell=line.told,
                    tell_validation=line.validating, asked_to_stop=asked,
                )  # fmt: skip
            return attend(
                school, corpus, root / name, resume=resume, force=force, begin=line.begin,
                ended=line.ended, tell=line.told, tell_validation=line.validating,
                asked_to_stop=asked,
            )  # fmt: skip
    except KeyboardInterrupt:
        raise click.Abort(_what_is_kept(root / name)) from None


def _what_is_kept(folder: Path) -> str:
    """What an interruption has left, and the command that goes on from there."""
    from twin.lm import snapshot
    from twin.lm.schooling import begun

    last = begun(folder)
    if last is None:
        return "Interrupted before the first step was saved. Run the same command again."
    step = snapshot.load(last)[1]["step"]
    return (
        f"Interrupted; {'the run' if last == folder else last.name} is kept as of step {step:,}. "
        "The same command with `--resume` goes on from there."
    )


def _about(corpus: "Corpus") -> str:
    train, held = corpus.train, corpus.held_out
    left_out = "".join(f"; {count} {why}" for why, count in sorted(corpus.left_out.items()))
    return (
        f"{len(train.tokens):,} tokens to learn from, {len(held.tokens):,} held out; "
        f"{corpus.tokenizer.vocab_size:,} symbols ({corpus.tokenizer.kind}){left_out}."
    )


@contextmanager
def _ends_between_steps() -> "Iterator[Callable[[], bool]]":
    """Ctrl-C and a scheduler's SIGTERM end the run at its next step, where it is saved; asked for
    a second time, at once. Gives whether that was asked for."""
    asked = False

    def stop(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _plain(value: object) -> object:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tell(result: "Result", *, taught: bool) -> None:
    rows = [
        ("held out, windows without a past", result.validation, result.bits_per_byte),
        ("held out, state carried on", result.validation_carried, result.bits_per_byte_carried),
    ]
    title = f"{result.folder.name}: {result.parameters / 1e6:.2f}M parameters"
    show.table(title, ("loss", "nats per token", "bits per byte"), rows)
    show.say(
        f"{result.step:,} steps, {result.tokens:,} tokens ({result.epochs:.1f} times the text) in "
        f"{result.seconds:,.0f} s: {result.tokens_per_s:,.0f} tokens a second "
        f"({result.kernels} kernels, {result.precision}). Training loss {result.train_loss:.3f}."
    )
    for warning in result.warnings:
        show.say(warning)
    if result.epochs >= _OFTEN and not taught:
        show.say(
            f"So often through a text is learning it by heart ({result.train_loss:.3f} while "
            "learning). The same time with `--teachers 3` may make more of it."
        )
    show.say(result.verdict)
    if result.saved and result.model_step != result.step:
        show.say(
            f"The best model is that of step {result.model_step:,}: it is kept, and the losses "
            "above are its own."
        )
    show.say(f"{'Model' if result.saved else 'Metrics'}: {result.folder}")
