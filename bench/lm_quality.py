"""Loss on held-out text after a fixed budget: the hybrid against a transformer of equal size.

    python bench/lm_quality.py TEXT --work FOLDER           <= 5M parameters, 10 minutes
    python bench/lm_quality.py TEXT --work FOLDER --long    <= 11M, 60 minutes, teachers included
    python bench/lm_quality.py TEXT --work FOLDER --spec    97 symbols, 5,000 steps of 64 x 64, 3.5M
    python bench/lm_quality.py TEXT --quick

TEXT is character Shakespeare (1,115,394 characters, 65 symbols). The last tenth is held out and
scored whole, in windows of the training length (256; 64 with --spec) that start without a past,
and once more with what came before carried along: the hybrid's state, or a KV cache of the last
256 positions. Figures are nats per character.

Both networks go through the trainer of `twin pretrain`, by its clock (compiling and set-up before
it, validation after it), with Muon, running average and schedule; nothing is chosen by the held-out
part but whether the average of the weights or the last ones are kept, for both. The transformer has
the same number of parameters within 2 %, rotary positions and normalised queries and keys; its own
learning rates, batch and dropout are in TRANSFORMER, and how they were found in bench/RESULTS.md.
--set and --set-transformer replace values of the recipes (`matrix_lr=0.03`, `model.dropout=0.1`;
the transformer's own shape is `shape.qk_norm=false`).

Each run is a process of its own with --threads threads, seed after seed, the two networks in turns.
With --work a finished run is a line in cells.jsonl there, and is not repeated; one that was killed
goes on from its last checkpoint. --plot draws how they learnt. The last line is JSON.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import verdict
from lm_peers.workers import Clock, Measure, Worker, WorkerFailed, peak_mb, serve

if TYPE_CHECKING:
    from twin.lm.recipe import Recipe

HYBRID: dict[str, dict[str, Any]] = {
    "short": {
        "preset": "5M",
        "model": {"d_model": 192, "dropout": 0.05},
        "order": "windows",
        "weight_decay": 0.2,
        "time_budget_s": 600.0,
    },
    "long": {
        "preset": "5M",
        "model": {"dropout": 0.05},
        "order": "windows",
        "weight_decay": 0.2,
        "teaching": 0.9,
        "time_budget_s": 3600.0,
    },
    "spec": {
        "preset": "3.5M",
        "model": {"fusion": "GF", "gate_init": 0.3, "dropout": 0.15},  # twenty epochs
        "weight_decay": 0.2,
        "order": "windows",
        "steps": 5_000,
        "batch": 64,
        "window": 64,
    },
}
"""What differs from the recipe's defaults."""
TEACHERS = {"long": 3}
"""Where the hybrid learns from others beside the text, in the same budget: an hour is forty times
through a million characters, and a network alone learns them by heart."""
UNDISTURBED: dict[str, Any] = {"validate_every_s": -1.0, "stop_early": False}
"""Validations on the way would be on the clock, and a stopped run has had another budget."""
TRANSFORMER: dict[str, dict[str, Any]] = {
    "short": {"batch": 8, "order": "windows", "model": {"dropout": 0.05}},
    "long": {"preset": "8M", "batch": 8, "order": "windows", "model": {"dropout": 0.15}},
    "spec": {},
}
"""What differs from the hybrid's recipe; `shape` below is the network's own."""
SHAPE: dict[str, Any] = {"positions": "rope", "qk_norm": True, "activation": "gelu", "context": 256}
MODELS = ("hybrid", "transformer")
MOST_PARAMETERS = {"short": 5_000_000, "long": 11_000_000, "spec": 3_600_000}
QUICK_CHARACTERS = 40_000
LOSS_SHOWN = 2.5
"""The first seconds would take most of a plot's height."""


# --- the child: one run ---


def build(spec: dict[str, Any]) -> tuple[dict[str, Any], Measure]:
    import torch

    torch.set_num_threads(spec["threads"])
    return {}, lambda _: trained(spec)


def trained(spec: dict[str, Any]) -> dict[str, Any]:
    """One network after its budget, and what it makes of the held-out part."""
    from twin.lm import snapshot
    from twin.lm.config import num_parameters
    from twin.lm.corpus import Wanted, prepare
    from twin.lm.documents import TextFiles
    from twin.lm.pretrain import Run
    from twin.lm.recipe import Recipe
    from twin.lm.tokenizer import PRINTABLE

    recipe = Recipe.from_dict(spec["recipe"])
    symbols = PRINTABLE if spec["setting"] == "spec" else ""
    wanted = Wanted(kind="char", control_tokens=False, symbols=symbols)
    folder = Path(spec["folder"])
    source = TextFiles(paths=[spec["text"]])
    corpus = prepare(source, wanted, folder.parent / "corpus", held_out=recipe.held_out)
    if spec["model"] != "transformer":
        run = Run(recipe, corpus, folder)
    else:
        from lm_peers.training import TransformerRun
        from lm_peers.transformer import Transformer, TransformerConfig, sized

        like = recipe.shape(corpus.tokenizer.vocab_size)
        shape = {"d_model": like.d_model, "n_heads": max(like.d_model // 64, 1), **spec["shape"]}
        blank = TransformerConfig(vocab_size=like.vocab_size, dropout=like.dropout, **shape)
        model = Transformer(sized(num_parameters(like), blank), seed=recipe.seed)
        run = TransformerRun(recipe, corpus, folder, model=model)
    if snapshot.exists(folder):
        run.restore()
    else:
        folder.mkdir(parents=True, exist_ok=True)
    clock = Clock()
    result = run.go(lambda status: _show(spec, status))
    return {
        **{name: value for name, value in asdict(result).items() if name != "folder"},
        "symbols": corpus.tokenizer.vocab_size,
        "held_out_tokens": len(corpus.held_out.tokens),
        "train_tokens": len(corpus.train.tokens),
        "cpu_s": round(clock.cpu_s, 1),
        "wall_s": round(clock.wall_s, 1),
        "peak_mb": peak_mb(),
    }


def _show(spec: dict[str, Any], status: Any) -> None:
    if status.step % 100 == 0:
        told = "" if status.validation is None else f"  val {status.validation:.4f}"
        print(
            f"  {spec['model']:12} seed {spec['recipe']['seed']}  {status.progress:4.0%}  step "
            f"{status.step:5}  {status.tokens_per_s:7.0f} tok/s  loss {status.loss:.3f}{told}",
            file=sys.stderr,
            flush=True,
        )


# --- the parent ---


def cells(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Every run in its order, with all that decides it."""
    from twin.lm.recipe import Recipe, changed, parse_setting
    from twin.lm.schooling import share_out

    base = Recipe.from_dict(
        {**HYBRID[given.setting], **UNDISTURBED, "threads": given.threads, **given.budget}
    )
    base = changed(base, dict(map(parse_setting, given.set)))
    own = dict(map(parse_setting, given.set_transformer))
    shape = dict(SHAPE)
    for name in [name for name in own if name.startswith("shape.")]:
        shape[name.removeprefix("shape.")] = own.pop(name)
    theirs = dict(TRANSFORMER[given.setting])
    dropout = theirs.pop("model", {})
    other = changed(base, {**theirs, **{f"model.{k}": v for k, v in dropout.items()}})
    other = changed(other, own)
    recipes = {"hybrid": base, "transformer": other}
    if given.quick:
        recipes = {model: changed(recipe, {"batch": 4}) for model, recipe in recipes.items()}
    found = []
    for seed in range(given.seeds):
        for model in given.models:
            recipe, taught_by = changed(recipes[model], {"seed": seed}), []
            if model == "hybrid" and given.setting in TEACHERS:
                school = share_out(recipe, TEACHERS[given.setting])
                recipe = changed(school.pupil, {"teachers": []})  # they are named below
                taught_by = [_teacher(given, one) for one in school.teachers]
            found += taught_by
            cell = {"setting": given.setting, "model": model, "recipe": recipe.to_dict(),
                    "teachers": [_folder(one) for one in taught_by]}  # fmt: skip
            if model == "transformer":
                cell["shape"] = shape
            found.append(_keyed(given, cell))
    return found


def _teacher(given: argparse.Namespace, recipe: "Recipe") -> dict[str, Any]:
    """A run that comes before a hybrid's."""
    cell = {"setting": given.setting, "model": "teacher", "recipe": recipe.to_dict()}
    return _keyed(given, cell)


def _keyed(given: argparse.Namespace, cell: dict[str, Any]) -> dict[str, Any]:
    cell = cell | {"text": str(given.text), "num_bytes": given.text.stat().st_size}
    told = json.dumps(cell, sort_keys=True).encode()
    return cell | {"key": hashlib.sha256(told).hexdigest()[:16]}


def measured(given: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """The finished runs, those of an earlier start of this bench included."""
    log = work / "cells.jsonl"
    done: dict[str, dict[str, Any]] = {}
    if log.exists():
        done = {line["key"]: line for line in map(json.loads, log.read_text().splitlines())}
    runs = []
    for cell in cells(given):
        if cell["key"] in done:
            runs.append(done[cell["key"]])
            _told(runs[-1])
            continue
        folder = work / _folder(cell)
        load = os.getloadavg()[0]
        taught_by = [str((work / one).resolve()) for one in cell.get("teachers", ())]
        recipe = cell["recipe"] | {"teachers": taught_by}
        spec = {**cell, "recipe": recipe, "folder": str(folder)}
        try:
            worker = Worker(Path(__file__), spec, threads=given.threads)
            try:
                got = worker.ask()
            finally:
                worker.stop()
        except WorkerFailed as error:
            print(f"  {cell['model']}: {error}", file=sys.stderr, flush=True)
            continue
        runs.append({**cell, "load_before": round(load, 2), "got": got})
        with log.open("a") as lines:
            lines.write(json.dumps(runs[-1]) + "\n")
        _told(runs[-1])
    return runs


def drawn(runs: Sequence[dict[str, Any]], work: Path) -> str:
    """The loss while learning over the minutes, one line a network (its first seed), as SVG."""
    from twin.lm.metrics import read
    from twin.lm.plots import lines

    curves: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        if run["model"] not in curves:
            told = [line for line in read(work / _folder(run)) if "loss" in line]
            points = [(line["seconds"] / 60, line["loss"]) for line in told]
            curves[run["model"]] = [point for point in points if point[1] < LOSS_SHOWN]
    return lines("Loss while learning", curves, x="minutes", y="nats per character")


def _folder(cell: dict[str, Any]) -> str:
    return f"{cell['setting']}-{cell['model']}-{cell['key']}"


def _told(run: dict[str, Any]) -> None:
    got = run["got"]
    print(
        f"  {run['model']:12} seed {run['recipe']['seed']}  {got['parameters']:,} parameters  val "
        f"{got['validation']:.4f}  carried {got['validation_carried']:.4f}  train "
        f"{got['train_loss']:.3f}  {got['tokens']:,} tokens ({got['epochs']:.1f} epochs)  "
        f"{got['tokens_per_s']:.0f} tok/s  {got['wall_s']:.0f} s wall, {got['cpu_s']:.0f} s CPU",
        flush=True,
    )


def table(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    seconds = {_folder(run): run["got"]["seconds"] for run in runs}
    for model in ("teacher", *MODELS):
        own = [run for run in runs if run["model"] == model]
        found = [run["got"] for run in own]
        if not found:
            continue
        told[model] = {
            **{
                name: verdict.spread([got[name] for got in found])
                for name in ("validation", "validation_carried", "train_loss")
            },
            "each": [round(got["validation"], 4) for got in found],
            "finished": all(got["finished"] for got in found),
            "parameters": found[0]["parameters"],
            "kernels": found[0]["kernels"],
            "precision": found[0]["precision"],
            "tokens": [got["tokens"] for got in found],
            "seconds": [round(got["seconds"], 1) for got in found],
            "seconds_with_teachers": [
                round(sum(map(seconds.__getitem__, (_folder(run), *run.get("teachers", ())))), 1)
                for run in own
            ],
            "cpu_s": [got["cpu_s"] for got in found],
            "peak_mb": max(got["peak_mb"] for got in found),
            "recipe": next(r["recipe"] for r in runs if r["model"] == model),
        }
    return told


def bars(setting: str, told: dict[str, Any]) -> list[dict[str, Any]]:
    ours, theirs = (
        told[model]["validation"]["mean"] if model in told else None for model in MODELS
    )
    size = told["hybrid"]["parameters"] if "hybrid" in told else None
    found = [verdict.at_most("parameters of the hybrid", MOST_PARAMETERS[setting], size)]
    if setting == "spec":
        return [*found, verdict.below("GF-MH, val, windows of 64", 1.49, ours)]
    if setting == "long":
        return [*found, verdict.at_most("val, windows of 256, 60 minutes", 1.39, ours)]
    ahead = theirs - ours if ours is not None and theirs is not None else None
    return [
        *found,
        verdict.at_most("val, windows of 256, 10 minutes", 1.43, ours),
        verdict.at_least("nats below the transformer of equal size and time", 0.05, ahead),
    ]


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path, nargs="?", help="character Shakespeare")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--long", action="store_const", dest="setting", const="long")
    which.add_argument("--spec", action="store_const", dest="setting", const="spec")
    parser.add_argument("--quick", action="store_true", help="a few seconds on a part of the text")
    parser.add_argument("--work", type=Path, help="keeps finished runs; continues where it ended")
    parser.add_argument("--seeds", type=int, help="default 3; 1 with --spec or --quick")
    parser.add_argument("--threads", type=int, help="default 2, quick 1")
    parser.add_argument("--models", default=",".join(MODELS), help="with a comma between")
    parser.add_argument("--minutes", type=float, help="another budget, to try things out")
    parser.add_argument("--steps", type=int, help="a budget of steps instead")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--set-transformer", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--plot", type=Path, metavar="SVG", help="draws the loss while learning")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    options.setting = options.setting or "short"
    if options.worker:
        return options
    if options.text is None or not options.text.is_file():
        parser.error("Give the path of the text.")
    options.threads = options.threads or (1 if options.quick else 2)
    options.seeds = options.seeds or (1 if options.quick or options.setting == "spec" else 3)
    options.models = [model for model in MODELS if model in options.models.split(",")]
    options.budget = {}
    if options.quick:
        options.minutes = options.minutes or 0.05
    if options.steps:
        options.budget = {"steps": options.steps, "time_budget_s": 0.0}
    elif options.minutes:
        options.budget = {"steps": 0, "time_budget_s": options.minutes * 60}
    return options


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    if options.worker:
        return serve(build)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="lm-quality-") as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        if options.quick:
            part = work / "part.txt"
            part.write_bytes(options.text.read_bytes()[:QUICK_CHARACTERS])
            options.text = part
        options.text = options.text.resolve()
        runs = measured(options, work)
        told = table(runs)
        if options.plot:
            options.plot.write_text(drawn(runs, work), encoding="utf-8")
    return verdict.tell(
        "lm_quality",
        verdict.versions("numpy"),
        {
            "quick": options.quick,
            "setting": options.setting,
            **verdict.machine(),
            "threads": options.threads,
            "seeds": options.seeds,
            "took_s": round(time.perf_counter() - began),
            "text": options.text.name,
            "shape": SHAPE,
            "models": told,
        },
        bars(options.setting, told),
    )


if __name__ == "__main__":
    sys.exit(main())
