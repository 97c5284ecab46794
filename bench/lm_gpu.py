"""Training throughput on a GPU: the 5M and 125M presets against a transformer and fla's layers.

    python bench/lm_gpu.py
    python bench/lm_gpu.py --quick
    python bench/lm_gpu.py --cells 125M-* --targets hybrid-triton,transformer-compiled

Refuses where torch sees no GPU. A step is forward, cross entropy, backward, clipping at 1 and fused
AdamW, under bfloat16 autocast, the same for all; --tokens a step in as many windows as that makes.
The transformer (pre-norm, rotary positions, GELU, MLP of four times the width, equal parameters
within 2 %) attends by scaled_dot_product_attention, which takes flash attention there; eager and
through torch.compile, the faster one counts. The hybrid runs with our Triton kernels (with and
without torch.compile of its blocks) and with the compiled chunked ones; the fastest counts.
flash-linear-attention takes part twice, if it is installed: `fla` is its RWKV-6 and Mamba-2 layers
in a hybrid of our shape, `hybrid-fla` our network with its RWKV-6 kernels; the faster one counts.

Each target has a process of its own and gives the GPU's memory back between its turns; all are
measured in turns in random order, --rounds times, for --seconds. Ratios are medians of ratios
within a round. Whether the kernels compute the right thing is the tests' and
`python -m twin.lm.kernels.selfcheck`'s business. The last line is JSON.
"""

import argparse
import fnmatch
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import verdict
from lm_peers.workers import Clock, Measure, Worker, WorkerFailed, serve

OURS = ("hybrid-triton", "hybrid-triton-compiled", "hybrid-compiled")
TRANSFORMERS = ("transformer", "transformer-compiled")
FLA = ("fla", "hybrid-fla")
TARGETS = OURS + TRANSFORMERS + FLA


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    preset: str
    length: int

    @property
    def name(self) -> str:
        return f"{self.preset}-T{self.length}"


CELLS = [
    Cell(preset="5M", length=256),
    Cell(preset="5M", length=1_024),
    Cell(preset="125M", length=2_048),
    Cell(preset="125M", length=8_192),
]
QUICK = ("5M-T1024",)
TOKENS = {"5M": 262_144, "125M": 65_536}


# --- the child ---


def build(spec: dict[str, Any]) -> tuple[dict[str, Any], Measure]:
    import torch
    from torch.nn import functional as F

    from twin.lm.config import num_parameters, preset

    device = torch.device("cuda")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    config = preset(spec["preset"])
    length, tokens = spec["length"], spec["tokens"]
    with device:
        model, forward = _model(spec["target"], config, num_parameters(config))
    model = model.to(device).train()
    data = torch.randint(config.vocab_size, (max(tokens // length, 1), length + 1), device=device)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)

    def step() -> Any:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logits, _ = forward(data[:, :-1], None)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), data[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        return loss

    def measure(question: dict[str, Any]) -> dict[str, Any]:
        step()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        clock, steps, loss = Clock(), 0, None
        while steps == 0 or clock.wall_s < question["seconds"]:
            loss = step()
            steps += 1
            torch.cuda.synchronize()
        told = {
            "tokens": steps * data.shape[0] * length,
            "wall_s": clock.wall_s,
            "cpu_s": clock.cpu_s,
            "loss": float(loss),  # type: ignore[arg-type]
            "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 2**20),
        }
        torch.cuda.empty_cache()
        return told

    clock = Clock()
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    ready = {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "path": getattr(model, "mamba_path", None),
        "ready_s": round(clock.wall_s, 1),
        "gpu": torch.cuda.get_device_name(),
    }
    torch.cuda.empty_cache()
    return ready, measure


def _model(target: str, config: Any, size: int) -> tuple[Any, Callable[..., Any]]:
    import torch

    if target in TRANSFORMERS:
        from lm_peers.transformer import Transformer, TransformerConfig, sized

        shape = TransformerConfig(
            vocab_size=config.vocab_size, d_model=config.d_model,
            n_heads=max(config.d_model // 64, 1), context=8_192,
        )  # fmt: skip
        model: Any = Transformer(sized(size, shape))
        compiled = target.endswith("compiled")
        return model, torch.compile(model, dynamic=False) if compiled else model
    if target == "fla":
        from lm_peers.fla_hybrid import FlaHybrid

        model = FlaHybrid(config)
        return model, model
    from twin.lm.model import HybridLM

    if target == "hybrid-fla":
        from twin.lm.kernels.fla import FlaKernels

        model = HybridLM(config, kernels=FlaKernels())
    else:
        model = HybridLM(config, kernels="triton" if "triton" in target else "compiled")
    if target == "hybrid-triton-compiled":
        for block in model.blocks:
            block.compile()
    return model, model


# --- the parent ---


def measured(given: argparse.Namespace) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = []
    drawn = random.Random(0)
    for cell in given.cells:
        with ExitStack() as stack:
            workers: dict[str, Worker] = {}
            for target in given.targets:
                spec = {"target": target, "preset": cell.preset, "length": cell.length,
                        "tokens": given.tokens or TOKENS[cell.preset]}  # fmt: skip
                try:
                    workers[target] = Worker(Path(__file__), spec, threads=os.cpu_count() or 1)
                except WorkerFailed as error:
                    print(f"  {cell.name} {target}: {error}", file=sys.stderr, flush=True)
                    continue
                stack.callback(workers[target].stop)
                print(f"  {cell.name} {target} {workers[target].ready}", flush=True)
            for number in range(given.rounds):
                for target in drawn.sample(list(workers), len(workers)):
                    try:
                        told = workers[target].ask(seconds=given.seconds)
                    except WorkerFailed as error:
                        print(f"  {cell.name} {target}: {error}", file=sys.stderr, flush=True)
                        workers.pop(target)
                        continue
                    run = {"cell": cell.name, "target": target, "round": number, **told}
                    run |= workers[target].ready
                    run["tok_s"] = run["tokens"] / run["wall_s"]
                    runs.append(run)
                    print(f"  {number} {cell.name:12} {target:24} {run['tok_s']:12,.0f} tok/s  "
                          f"{run['peak_gpu_mb']:7} MB", flush=True)  # fmt: skip
    return runs


class Figures:
    def __init__(self, runs: Sequence[dict[str, Any]]) -> None:
        self.runs = runs

    def speed(self, cell: str, target: str) -> float | None:
        found = [r["tok_s"] for r in self.runs if (r["cell"], r["target"]) == (cell, target)]
        return verdict.median(found)

    def best(self, cell: str, targets: Sequence[str]) -> str | None:
        known = {target: self.speed(cell, target) for target in targets}
        found = {target: speed for target, speed in known.items() if speed is not None}
        return max(found, key=lambda target: found[target]) if found else None

    def ratio(self, cell: str, peers: Sequence[str]) -> float | None:
        ours, theirs = self.best(cell, OURS), self.best(cell, peers)
        by = {(r["cell"], r["target"], r["round"]): r["tok_s"] for r in self.runs}
        if ours is None or theirs is None:
            return None
        pairs = [(by.get((cell, ours, n)), by.get((cell, theirs, n)))
                 for n in sorted({run["round"] for run in self.runs})]  # fmt: skip
        return verdict.median([a / b for a, b in pairs if a and b])

    def table(self) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for run in self.runs:
            told.setdefault(run["cell"], {})[run["target"]] = {
                "tok_s": round(self.speed(run["cell"], run["target"]) or 0),
                **{name: run[name] for name in ("parameters", "peak_gpu_mb", "path", "ready_s")},
            }
        return told


def bars(figures: Figures) -> list[dict[str, Any]]:
    small = [cell.name for cell in CELLS if cell.preset == "5M"]
    speeds = [figures.speed(cell, target) for cell in small for target in OURS]
    fastest = max((speed for speed in speeds if speed is not None), default=None)
    return [
        verdict.at_least("5M, tok/s", 5_000_000, fastest),
        verdict.at_least("125M against the transformer, T=8192", 1.5,
                         figures.ratio("125M-T8192", TRANSFORMERS), unit="x"),
        *(verdict.at_least(f"{cell.name} against flash-linear-attention", 1.0,
                           figures.ratio(cell.name, FLA), unit="x") for cell in CELLS),
    ]  # fmt: skip


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="5M at T=1024, one short round")
    parser.add_argument("--targets", default=",".join(TARGETS), help="with commas between")
    parser.add_argument("--cells", default="", help="globs such as 5M-*,125M-T8192")
    parser.add_argument("--tokens", type=int, help=f"a step; default {TOKENS}")
    parser.add_argument("--rounds", type=int, help="default 3, quick 1")
    parser.add_argument("--seconds", type=float, help="of each run; default 5, quick 1")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (1.0 if options.quick else 5.0)
    options.targets = [t for t in TARGETS if t in options.targets.split(",")]
    globs = options.cells.split(",") if options.cells else (QUICK if options.quick else ["*"])
    options.cells = [c for c in CELLS if any(fnmatch.fnmatch(c.name, glob) for glob in globs)]
    return options


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    if options.worker:
        return serve(build)
    import torch

    if not torch.cuda.is_available():
        raise SystemExit(
            f"torch {torch.__version__} sees no GPU. Run this on a machine with one, with a torch "
            "built for CUDA; bench/lm_train.py measures a CPU."
        )
    began = time.perf_counter()
    figures = Figures(measured(options))
    return verdict.tell(
        "lm_gpu",
        verdict.versions("triton", "flash-linear-attention", "fla-core", "mamba-ssm"),
        {
            "quick": options.quick,
            "gpu": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            **verdict.machine(),
            "rounds": options.rounds,
            "seconds": options.seconds,
            "tokens": options.tokens or TOKENS,
            "took_s": round(time.perf_counter() - began),
            "cells": figures.table(),
            "best": {
                cell.name: [figures.best(cell.name, group) for group in (OURS, TRANSFORMERS, FLA)]
                for cell in options.cells
            },
        },
        bars(figures),
    )


if __name__ == "__main__":
    sys.exit(main())
