"""Bits per byte on Python modules that were never seen: the hybrid, a transformer, and zstd.

    python bench/lm_code.py --work FOLDER
    python bench/lm_code.py --quick

The text is the standard library's own source, of the interpreter that runs this (`*.py` under
`sysconfig.get_path("stdlib")`, without site-packages, tests, links and what is generated;
--tests adds tests). A tenth of the modules is held out, by the hash of their path. A byte-level
network of 5M parameters learns from the rest for ten minutes on --threads threads, and so does a
transformer of equal size, and that one with the hybrid's context embedding; all through the trainer
of `twin pretrain`, by its clock.

`files` starts every held-out module anew, after an end token; `joined` reads them one after the
other and carries on what came before (the hybrid its state, the transformer a KV cache of the last
positions, as many as it was trained on). The state only ever holds held-out bytes that were
predicted before, so nothing is seen twice. End tokens between modules are not counted as bytes and
not scored.

`zstd -19 --long=27 --patch-from=TRAINING` is given all the bytes to learn from as its dictionary
and compresses each held-out module by itself (`files`) and all of them as one (`joined`); frame
headers are counted, four to twelve bytes a file. `plain` is zstd -19 without the dictionary.

With --work a finished run is a line in cells.jsonl there, and is not repeated; one that was killed
goes on from its last checkpoint. Needs the program zstd. The last line is JSON.
"""

import argparse
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import verdict
from lm_peers.workers import Clock, Measure, Worker, WorkerFailed, peak_mb, serve

HELD_OUT = 0.1
RECIPE: dict[str, Any] = {
    "preset": "5M",
    "model": {"ffn_mult": 3.25},
    "tokenizer": "byte",
    "time_budget_s": 600.0,
    "validate_every_s": -1.0,  # on the way it would be on the clock
    "stop_early": False,
}
"""What differs from the recipe's defaults; 5.01M parameters with the bytes' vocabulary."""
HYBRID: dict[str, Any] = {
    "batch": 2,
    "window": 1024,
    "stages": [[0.5, 256]],
    "order": "windows",
    "model.n_layers": 4,
    "model.ffn_mult": 2.5,
    "model.ngram_max": 5,
    "model.ngram_rows": 10_240,
    "model.induction_max": 16,
}
"""At as many parameters as the transformer, a quarter of them in tables of n-grams. Long windows
cost the hybrid nothing; induction uses them."""
TRANSFORMER: dict[str, Any] = {"batch": 8, "order": "windows"}
INDUCED = "transformer-context"
"""The transformer with the hybrid's windows and context embedding, which could serve it as well."""
SHAPE: dict[str, Any] = {"positions": "rope", "qk_norm": True, "activation": "gelu"}
MODELS = ("hybrid", "transformer", INDUCED)
ZSTD = ("zstd", "-19", "--long=27", "--single-thread", "--quiet", "--stdout")
"""One thread because zstd itself advises it for smaller patches."""
GENERATED = ("_sysconfigdata", "config-", "pydoc_data/topics.py")
"""The last is 757 kB of documentation as one literal: wherever it fell, it would decide."""
LEFT_OUT = ("site-packages", "dist-packages", "__pycache__", "ensurepip")
TESTS = ("test", "tests", "idle_test")
SCORED_AT_ONCE = 1_024
"""Bytes; bounds the memory of a long module, changes nothing else (with a KV cache: its window)."""
QUICK_BYTES = 80_000
QUICK_MODULE = 4_000


# --- the text ---


@dataclass(slots=True)
class Library:
    """The standard library's modules as documents, named by their path below its folder."""

    root: Path
    with_tests: bool
    most_bytes: int
    split: str = "path"
    left_out: Counter[str] = field(default_factory=Counter)

    def documents(self) -> Iterator[Any]:
        from twin.lm.documents import Document

        self.left_out = Counter()
        total = 0
        for path in sorted(self.root.rglob("*.py")):
            name = path.relative_to(self.root).as_posix()
            if reason := self._left_out(path, name):
                self.left_out[reason] += 1
                continue
            data = path.read_bytes()
            if self.most_bytes and len(data) > QUICK_MODULE:
                continue
            total += len(data)
            if self.most_bytes and total > self.most_bytes:
                return
            yield Document(name=name, pieces=partial(iter, [data]))

    def _left_out(self, path: Path, name: str) -> str:
        parts = set(Path(name).parts)
        if parts & set(LEFT_OUT):
            return "installed"
        if not self.with_tests and parts & set(TESTS):
            return "tests"
        if path.is_symlink() or name.startswith(GENERATED):
            return "generated"
        return "" if path.stat().st_size else "empty"


def corpus_of(spec: dict[str, Any]) -> Any:
    from twin.lm.corpus import Wanted, prepare

    source = Library(Path(spec["library"]), spec["with_tests"], spec["most_bytes"])
    cache = Path(spec["work"]) / "corpus"
    return prepare(source, Wanted(kind="byte"), cache, held_out=HELD_OUT)


def modules(tokens: Any, end: int) -> list[bytes]:
    """What stands between the end tokens."""
    import numpy as np

    cuts = np.flatnonzero(np.asarray(tokens) == end)
    parts = np.split(np.asarray(tokens), cuts)
    return [bytes(part[part != end].astype(np.uint8)) for part in parts]


# --- the child: one run ---


def build(spec: dict[str, Any]) -> tuple[dict[str, Any], Measure]:
    import torch

    torch.set_num_threads(spec["threads"])
    return {}, lambda _: trained(spec)


def trained(spec: dict[str, Any]) -> dict[str, Any]:
    from twin.lm import snapshot
    from twin.lm.pretrain import Run
    from twin.lm.recipe import Recipe

    recipe = Recipe.from_dict(spec["recipe"])
    corpus = corpus_of(spec)
    folder = Path(spec["folder"])
    run = (
        Run(recipe, corpus, folder)
        if spec["model"] == "hybrid"
        else _transformer_run(spec, recipe, corpus, folder)
    )
    if snapshot.exists(folder):
        run.restore()
    else:
        folder.mkdir(parents=True, exist_ok=True)
    clock = Clock()
    result = run.go(lambda status: _show(spec, status))
    spent = {"cpu_s": round(clock.cpu_s, 1), "wall_s": round(clock.wall_s, 1)}
    held = modules(corpus.held_out.tokens, corpus.tokenizer.end)
    clock = Clock()
    bits = score(run.model, held, corpus.tokenizer.end, spec["recipe"]["precision"])
    return {
        **{name: value for name, value in asdict(result).items() if name != "folder"},
        **spent,
        **bits,
        "scoring_s": round(clock.wall_s, 1),
        "peak_mb": peak_mb(),
    }


def _transformer_run(spec: dict[str, Any], recipe: Any, corpus: Any, folder: Path) -> Any:
    from lm_peers.training import TransformerRun
    from lm_peers.transformer import Transformer, TransformerConfig, sized
    from twin.lm.config import num_parameters

    like = recipe.shape(corpus.tokenizer.vocab_size)
    in_context = num_parameters(like) - num_parameters(replace(like, ngram_max=0, induction_max=0))
    shape = TransformerConfig(
        vocab_size=like.vocab_size,
        d_model=like.d_model,
        n_heads=max(like.d_model // 64, 1),
        dropout=like.dropout,
        context=recipe.window,
        **spec["shape"],
    )
    size = sized(num_parameters(like) - in_context, shape)
    model = Transformer(size, seed=recipe.seed, like=like)
    return TransformerRun(recipe, corpus, folder, model=model)


def score(model: Any, held: Sequence[bytes], end: int, precision: str) -> dict[str, float]:
    """Bits per byte of the modules, each afresh and joined, as the last weights or their average
    (whichever the run kept) predict them."""
    import torch

    model.eval()
    num_bytes = sum(map(len, held))
    with torch.inference_mode():
        files = [_bits(model, module, end, None, precision)[0] for module in held]
        joined, state = 0.0, None
        for module in held:
            bits, state = _bits(model, module, end, state, precision)
            joined += bits
    return {
        "files": sum(files) / num_bytes,
        "joined": joined / num_bytes,
        "files_median": sorted(
            bits / len(module) for bits, module in zip(files, held, strict=True)
        )[len(held) // 2],
    }


def _bits(model: Any, module: bytes, end: int, state: Any, precision: str) -> tuple[float, Any]:
    """Bits of a module after an end token, and the state after all but its last byte."""
    import torch
    from torch.nn import functional as F

    from twin.lm.precision import autocast

    seen = torch.tensor([end, *module])
    nats = 0.0
    for at in range(0, len(module), SCORED_AT_ONCE):
        part = seen[at : at + SCORED_AT_ONCE + 1]
        with autocast(torch.device("cpu"), precision):  # type: ignore[arg-type]
            logits, state = model(part[None, :-1], state)
        nats += F.cross_entropy(logits[0].float(), part[1:], reduction="sum").item()
    return nats / math.log(2), state


def _show(spec: dict[str, Any], status: Any) -> None:
    if status.step % 100 == 0:
        print(
            f"  {spec['model']:12} {status.progress:4.0%}  step {status.step:5}  "
            f"{status.tokens_per_s:7.0f} tok/s  loss {status.loss:.3f}",
            file=sys.stderr,
            flush=True,
        )


# --- zstd ---


def zstd_bits(training: bytes, held: Sequence[bytes], jobs: int) -> dict[str, float]:
    """Bits per byte, with the training text as dictionary and without."""
    num_bytes = sum(map(len, held))
    with tempfile.TemporaryDirectory(prefix="lm-code-") as folder:
        dictionary = Path(folder, "training")
        dictionary.write_bytes(training)
        paths = []
        for number, module in enumerate([b"".join(held), *held]):
            paths.append(Path(folder, f"module-{number}"))
            paths[-1].write_bytes(module)
        # The default dictionary is a patch's reference: matches reach over all of it.
        patched = (*ZSTD, f"--patch-from={dictionary}")
        with ThreadPoolExecutor(jobs) as pool:
            whole, *each = pool.map(partial(_compressed, patched), paths)
            plain_whole, *plain = pool.map(partial(_compressed, ZSTD), paths)
    return {
        "files": 8 * sum(each) / num_bytes,
        "joined": 8 * whole / num_bytes,
        "plain_files": 8 * sum(plain) / num_bytes,
        "plain_joined": 8 * plain_whole / num_bytes,
    }


def _compressed(command: Sequence[str], path: Path) -> int:
    done = subprocess.run([*command, str(path)], capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise SystemExit(f"zstd ended with status {done.returncode} on {path.name}: {said}")
    return len(done.stdout)


# --- the parent ---


def cells(given: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    from twin.lm.recipe import Recipe, changed, parse_setting

    base = Recipe.from_dict({**RECIPE, "threads": given.threads, **given.budget})
    base = changed(base, dict(map(parse_setting, given.set)))
    own = dict(map(parse_setting, given.set_transformer))
    hybrid = changed(changed(base, HYBRID), dict(map(parse_setting, given.set_hybrid)))
    recipes = {
        "hybrid": hybrid,
        "transformer": changed(changed(base, TRANSFORMER), own),
        INDUCED: hybrid,
    }
    if given.quick:
        recipes = {model: changed(recipe, {"batch": 4}) for model, recipe in recipes.items()}
    found = []
    for seed in range(given.seeds):
        for model in given.models:
            cell = {
                "model": model,
                "recipe": changed(recipes[model], {"seed": seed}).to_dict(),
                "library": str(given.library),
                "python": sys.version.split()[0],
                "with_tests": given.tests,
                "most_bytes": QUICK_BYTES if given.quick else 0,
            }
            if model != "hybrid":
                cell["shape"] = SHAPE
            told = json.dumps(cell, sort_keys=True).encode()
            key = hashlib.sha256(told).hexdigest()[:16]
            found.append({**cell, "key": key, "work": str(work)})
    return found


def measured(given: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """The finished runs, those of an earlier start of this bench included."""
    log = work / "cells.jsonl"
    done: dict[str, dict[str, Any]] = {}
    if log.exists():
        done = {line["key"]: line for line in map(json.loads, log.read_text().splitlines())}
    runs = []
    for cell in cells(given, work):
        if cell["key"] not in done:
            folder = work / f"code-{cell['model']}-{cell['key']}"
            load = os.getloadavg()[0]
            try:
                spec = {**cell, "folder": str(folder)}
                worker = Worker(Path(__file__), spec, threads=given.threads)
                try:
                    got = worker.ask()
                finally:
                    worker.stop()
            except WorkerFailed as error:
                print(f"  {cell['model']}: {error}", file=sys.stderr, flush=True)
                continue
            done[cell["key"]] = {**cell, "load_before": round(load, 2), "got": got}
            with log.open("a") as lines:
                lines.write(json.dumps(done[cell["key"]]) + "\n")
        runs.append(done[cell["key"]])
        got = runs[-1]["got"]
        print(
            f"  {cell['model']:12} seed {cell['recipe']['seed']}  {got['parameters']:,} parameters"
            f"  files {got['files']:.4f}  joined {got['joined']:.4f} bits per byte  "
            f"{got['tokens']:,} bytes read ({got['epochs']:.2f} epochs)",
            flush=True,
        )
    return runs


def table(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for model in MODELS:
        found = [run["got"] for run in runs if run["model"] == model]
        if found:
            told[model] = {
                **{
                    name: verdict.spread([got[name] for got in found])
                    for name in ("files", "joined", "files_median")
                },
                **{
                    name: [got[name] for got in found]
                    for name in ("tokens", "epochs", "cpu_s", "wall_s", "seconds", "train_loss")
                },
                **{name: found[0][name] for name in ("parameters", "kernels", "precision")},
                "peak_mb": max(got["peak_mb"] for got in found),
                "recipe": next(r["recipe"] for r in runs if r["model"] == model),
            }
    return told


def bars(told: dict[str, Any], zstd: dict[str, float]) -> list[dict[str, Any]]:
    def ahead(kind: str, than: float | None) -> float | None:
        ours = told["hybrid"][kind]["mean"] if "hybrid" in told else None
        return None if ours is None or than is None else than - ours

    found = []
    for kind in ("files", "joined"):
        peer = told["transformer"][kind]["mean"] if "transformer" in told else None
        for name, than in (("zstd --patch-from", zstd.get(kind)), ("the transformer", peer)):
            got = ahead(kind, than)
            found.append(
                {
                    "name": f"bits per byte below {name}, {kind}",
                    "must": "> 0",
                    "got": verdict.rounded(got),
                    "holds": got is not None and got > 0,
                }
            )
    return found


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few seconds on 80 kB")
    parser.add_argument("--library", type=Path, default=Path(sysconfig.get_path("stdlib")))
    parser.add_argument("--tests", action="store_true", help="the library's tests too")
    parser.add_argument("--work", type=Path, help="keeps finished runs; continues where it ended")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, help="default 2, quick 1")
    parser.add_argument("--models", default=",".join(MODELS), help="with a comma between")
    parser.add_argument("--minutes", type=float, help="another budget, to try things out")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--set-hybrid", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--set-transformer", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    options.threads = options.threads or (1 if options.quick else 2)
    options.models = [model for model in MODELS if model in options.models.split(",")]
    options.library = options.library.resolve()
    if options.quick:
        options.minutes = options.minutes or 0.05
    options.budget = {"time_budget_s": options.minutes * 60} if options.minutes else {}
    return options


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    if options.worker:
        return serve(build)
    if shutil.which("zstd") is None:
        raise SystemExit("The program zstd is missing. `apt-get install zstd`, then run it again.")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="lm-code-") as folder:
        work = (options.work or Path(folder)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        corpus = corpus_of(cells(options, work)[0])
        training = b"".join(modules(corpus.train.tokens, corpus.tokenizer.end))
        held = modules(corpus.held_out.tokens, corpus.tokenizer.end)
        text = {
            "train_bytes": len(training), "train_modules": corpus.train.num_documents,
            "held_out_bytes": sum(map(len, held)), "held_out_modules": len(held),
            "left_out": corpus.left_out,
        }  # fmt: skip
        print(f"  {text}", flush=True)
        known = work / f"zstd-{corpus.key}.json"
        if known.exists():
            zstd = json.loads(known.read_text())
        else:
            zstd = zstd_bits(training, held, os.cpu_count() or 1)
            known.write_text(json.dumps(zstd))
        print("  zstd         " + "  ".join(f"{k} {v:.4f}" for k, v in zstd.items()), flush=True)
        told = table(measured(options, work))
    version = subprocess.run(["zstd", "--version"], capture_output=True, check=False, text=True)
    return verdict.tell(
        "lm_code",
        {**verdict.versions("numpy"), "zstd": version.stdout.strip().strip("*").strip()},
        {
            "quick": options.quick,
            **verdict.machine(),
            "threads": options.threads,
            "seeds": options.seeds,
            "took_s": round(time.perf_counter() - began),
            "text": text,
            "bits_per_byte": {**told, "zstd": {k: round(v, 4) for k, v in zstd.items()}},
        },
        bars(told, zstd),
    )


if __name__ == "__main__":
    sys.exit(main())
