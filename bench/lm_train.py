"""Training speed of the hybrid against a transformer, transformers' Mamba-2 and RWKV, and loops.

    python bench/lm_train.py
    python bench/lm_train.py --quick
    python bench/lm_train.py --targets hybrid,transformer-compiled --cells T2048-1

All have about 4.1M parameters (within 2 %) and take the same step: forward, cross entropy,
backward, clipping at 1, one step of the optimizer (fused AdamW; --optimizer muon: that of the
recipes, where the peer's parameters allow it). 4,096 tokens a step: 16 windows of 256 or 2 of
2,048. The transformer is nanoGPT's (pre-norm, learned positions, GELU, MLP of four times the width,
scaled_dot_product_attention, four heads of 64), eager and through torch.compile: the faster one
counts, and so it does for the hybrid. `naive` is the hybrid whose recurrences run token by token.
Precision is the trainer's `auto` for all: bfloat16 autocast where the CPU has AMX. Elsewhere the
peers multiply in float32, torch's fastest there, and so does the hybrid unless the CPU has
AVX512-FP16, for which the native kernels bring products of their own (`hybrid-fp32` goes without).

A cell is a length and a number of threads. In it each target has a process of its own, started with
that number of threads, warmed up with two steps (compiling included); then all are measured in
turns, in random order, for --seconds of CPU each, --rounds times. `tok_s_core` is tokens over CPU
seconds of the process (all its threads, spinning included), `tok_s` tokens over wall seconds.
Ratios are medians of the ratios within a round. The last line is JSON.
"""

import argparse
import fnmatch
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import verdict
from lm_peers.workers import Clock, Measure, Worker, WorkerFailed, peak_mb, serve

VOCABULARY = 65
TOKENS_A_STEP = 4_096
HYBRID = {"d_model": 256, "n_layers": 4, "ffn_mult": 3.5}
"""4.1M parameters."""
TARGETS = (
    "hybrid", "hybrid-compiled", "hybrid-fp32", "transformer", "transformer-compiled", "mamba2",
    "rwkv", "naive",
)  # fmt: skip
OURS = ("hybrid", "hybrid-compiled", "hybrid-fp32")
TRANSFORMERS = ("transformer", "transformer-compiled")
SLOW = ("mamba2", "rwkv", "naive")
"""Token by token, or nearly so: at T = 2,048 a step takes half a minute and no bar asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    length: int
    threads: int
    tokens: int = TOKENS_A_STEP

    @property
    def name(self) -> str:
        return f"T{self.length}-{self.threads}"

    def has(self, target: str) -> bool:
        if self.threads > 1:
            return target in OURS + TRANSFORMERS
        return self.length <= 256 or target not in SLOW


CELLS = [Cell(length=length, threads=threads) for length in (256, 2048) for threads in (1, 2)]
QUICK_CELLS = [Cell(length=256, threads=1, tokens=512)]
QUICK_TARGETS = ("hybrid", "transformer", "mamba2", "naive")


# --- the child: builds one target and takes steps ---


def build(spec: dict[str, Any]) -> tuple[dict[str, Any], Measure]:
    import torch
    from torch.nn import functional as F

    from twin.lm.precision import Precision, autocast, choose_precision

    torch.manual_seed(0)
    torch.set_num_threads(spec["threads"])
    length, tokens = spec["length"], spec["tokens"]
    model = _model(spec["target"], length).train()
    # nanoGPT's count: learned positions, which cost next to no work, are left out.
    positions = getattr(getattr(model, "position", None), "weight", None)
    num_parameters = sum(weight.numel() for weight in model.parameters() if weight is not positions)
    forward: Callable[..., Any] = model
    if spec["target"] == "transformer-compiled":
        forward = torch.compile(model, dynamic=False)
    update = _update(model, spec["optimizer"])
    device = torch.device("cpu")
    data = torch.randint(VOCABULARY, (tokens // length, length + 1))

    wanted: Precision = "fp32" if spec["target"] == "hybrid-fp32" else "auto"
    has_half = getattr(getattr(model, "kernels", None), "has_half", False)

    def step() -> float:
        with autocast(device, wanted):
            logits, _ = forward(data[:, :-1], None)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), data[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        update()
        return loss.item()

    def measure(question: dict[str, Any]) -> dict[str, Any]:
        clock, steps, loss = Clock(), 0, 0.0
        while steps == 0 or clock.wall_s < question["seconds"]:
            loss = step()
            steps += 1
        return {
            "tokens": steps * tokens,
            "cpu_s": clock.cpu_s,
            "wall_s": clock.wall_s,
            "loss": loss,
            "peak_mb": peak_mb(),
        }

    clock = Clock()
    for _ in range(spec["warm"]):
        step()
    ready = {
        "parameters": num_parameters,
        "kernels": getattr(getattr(model, "kernels", None), "name", None),
        "precision": choose_precision(device, wanted, has_half=has_half),
        "ready_s": round(clock.wall_s, 1),
    }
    return ready, measure


def _model(target: str, length: int) -> Any:
    from twin.lm.config import HybridConfig, num_parameters

    config = HybridConfig(vocab_size=VOCABULARY, **HYBRID)
    size = num_parameters(config)
    if target in (*OURS, "naive"):
        from twin.lm.model import HybridLM

        kernels = {"hybrid-compiled": "compiled", "naive": "reference"}.get(target, "native")
        return HybridLM(config, kernels=kernels, seed=0)
    if target in TRANSFORMERS:
        from lm_peers.transformer import Transformer, TransformerConfig, sized

        shape = TransformerConfig(vocab_size=VOCABULARY, context=length, positions="learned")
        return Transformer(sized(size, shape), seed=0)
    from lm_peers import published

    if target == "mamba2":
        return published.mamba2(size, vocab_size=VOCABULARY)
    return published.rwkv(size, vocab_size=VOCABULARY, context=length)


def _update(model: Any, optimizer: str) -> Callable[[], None]:
    """One step of the optimizer, which also clears the gradients."""
    import torch

    if optimizer == "muon":
        from lm_peers.training import recipe_optimizers

        both = recipe_optimizers(model)
        return lambda: both.step(1.0)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), fused=True)

    def update() -> None:
        adamw.step()
        adamw.zero_grad(set_to_none=True)

    return update


# --- the parent ---


def measured(given: argparse.Namespace, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """All runs: cell, target, round and what the worker said."""
    runs: list[dict[str, Any]] = []
    drawn = random.Random(0)
    for cell in cells:
        with ExitStack() as stack:
            workers: dict[str, Worker] = {}
            for target in given.targets:
                if cell.has(target):
                    worker = _started(cell, target, given)
                    if worker:
                        workers[target] = worker
                        stack.callback(worker.stop)
            for number in range(given.rounds):
                for target in drawn.sample(list(workers), len(workers)):
                    run = {"cell": cell.name, "target": target, "round": number}
                    try:
                        run |= workers[target].ask(seconds=given.seconds)
                    except WorkerFailed as error:
                        print(f"  {cell.name} {target}: {error}", file=sys.stderr, flush=True)
                        del workers[target]
                        continue
                    run |= workers[target].ready
                    run["tok_s_core"] = run["tokens"] / run["cpu_s"]
                    run["tok_s"] = run["tokens"] / run["wall_s"]
                    runs.append(run)
                    print(
                        f"  {number} {cell.name:8} {target:22} {run['tok_s_core']:8.0f} tok/s a "
                        f"core  {run['tok_s']:8.0f} tok/s  {run['peak_mb']:6.0f} MB",
                        flush=True,
                    )
    return runs


def _started(cell: Cell, target: str, given: argparse.Namespace) -> Worker | None:
    try:
        worker = Worker(
            Path(__file__),
            {"target": target, "length": cell.length, "tokens": cell.tokens,
             "optimizer": given.optimizer, "warm": 1 if given.quick or target in SLOW else 2},
            threads=cell.threads,
        )  # fmt: skip
    except WorkerFailed as error:
        print(f"  {cell.name} {target}: {error}", file=sys.stderr, flush=True)
        return None
    told = worker.ready
    print(f"  {cell.name:10} {target:22} {told['parameters']:,} parameters, {told['precision']}, "
          f"kernels {told['kernels']}, ready after {told['ready_s']} s", flush=True)  # fmt: skip
    return worker


class Figures:
    """Medians over the rounds, of values and of ratios within a round."""

    def __init__(self, runs: Sequence[dict[str, Any]]) -> None:
        self.runs = runs
        self._by = {(run["cell"], run["target"], run["round"]): run for run in runs}

    def value(self, cell: str, target: str, metric: str) -> float | None:
        found = [r[metric] for r in self.runs if (r["cell"], r["target"]) == (cell, target)]
        return verdict.median(found)

    def best(self, cell: str, targets: Sequence[str]) -> str | None:
        """The one of the targets that is fastest there."""
        known = {target: self.value(cell, target, "tok_s_core") for target in targets}
        measured = {target: value for target, value in known.items() if value is not None}
        return max(measured, key=lambda target: measured[target]) if measured else None

    def ratio(self, cell: str, peers: Sequence[str]) -> float | None:
        """Tokens per core second of our best against the peers' best."""
        ours, theirs = self.best(cell, OURS), self.best(cell, peers)
        if ours is None or theirs is None:
            return None
        return self._ratio((cell, ours), (cell, theirs), "tok_s_core")

    def speedup(self, length: int) -> float | None:
        """Wall speed of two threads against one."""
        one, two = f"T{length}-1", f"T{length}-2"
        ours = self.best(two, OURS)
        return self._ratio((two, ours), (one, ours), "tok_s") if ours else None

    def _ratio(self, a: tuple[str, str], b: tuple[str, str], metric: str) -> float | None:
        rounds = {run["round"] for run in self.runs}
        pairs = [(self._by.get((*a, n)), self._by.get((*b, n))) for n in sorted(rounds)]
        return verdict.median([x[metric] / y[metric] for x, y in pairs if x and y])

    def table(self) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for run in self.runs:
            cell, target = run["cell"], run["target"]
            told.setdefault(cell, {})[target] = {
                "tok_s_core": round(self.value(cell, target, "tok_s_core") or 0),
                "tok_s": round(self.value(cell, target, "tok_s") or 0),
                "peak_mb": self.value(cell, target, "peak_mb"),
                **{name: run[name] for name in ("parameters", "kernels", "precision")},
            }
        return told


def bars(figures: Figures) -> list[dict[str, Any]]:
    say = verdict.at_least
    return [
        say("tok/s a core against the transformer, T=256", 1.0,
            figures.ratio("T256-1", TRANSFORMERS), unit="x"),
        say("tok/s a core against the transformer, T=2048", 2.5,
            figures.ratio("T2048-1", TRANSFORMERS), unit="x"),
        say("tok/s a core against transformers' Mamba2, T=256", 5.0,
            figures.ratio("T256-1", ["mamba2"]), unit="x"),
        say("tok/s a core against the naive loop, T=256", 12.0,
            figures.ratio("T256-1", ["naive"]), unit="x"),
        say("tok/s of two threads against one, T=256", 1.7, figures.speedup(256), unit="x"),
    ]  # fmt: skip


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="T=256 on one thread, 4 windows")
    parser.add_argument("--targets", default="", help=f"of {','.join(TARGETS)}")
    parser.add_argument("--cells", default="*", help="globs such as T256-*,T2048-1")
    parser.add_argument("--rounds", type=int, help="default 5, quick 3")
    parser.add_argument("--seconds", type=float, help="of each run; default 4, quick 0.5")
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.seconds = options.seconds or (0.5 if options.quick else 4.0)
    wanted = options.targets.split(",") if options.targets else TARGETS
    if not options.targets and options.quick:
        wanted = QUICK_TARGETS
    options.targets = [target for target in TARGETS if target in wanted]
    return options


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    if options.worker:
        return serve(build)
    began = time.perf_counter()
    globs = options.cells.split(",")
    offered = QUICK_CELLS if options.quick else CELLS
    cells = [cell for cell in offered if any(fnmatch.fnmatch(cell.name, glob) for glob in globs)]
    figures = Figures(measured(options, cells))
    return verdict.tell(
        "lm_train",
        verdict.versions("transformers", "numpy"),
        {
            "quick": options.quick,
            **verdict.machine(),
            "optimizer": options.optimizer,
            "rounds": options.rounds,
            "seconds": options.seconds,
            "took_s": round(time.perf_counter() - began),
            "cells": figures.table(),
            "best": {
                cell.name: {
                    "ours": figures.best(cell.name, OURS),
                    "transformer": figures.best(cell.name, TRANSFORMERS),
                }
                for cell in cells
            },
            "against": {
                cell.name: {
                    name: verdict.rounded(figures.ratio(cell.name, peers))
                    for name, peers in (
                        ("transformer", TRANSFORMERS),
                        *((one, [one]) for one in SLOW),
                    )
                    if cell.has(peers[0])
                }
                for cell in cells
            },
            "two_threads": {
                str(length): verdict.rounded(figures.speedup(length)) for length in (256, 2048)
            },
        },
        bars(figures),
    )


if __name__ == "__main__":
    sys.exit(main())
