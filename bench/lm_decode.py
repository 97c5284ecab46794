"""Generation: tokens a second a core and memory a stream at growing contexts, against a KV cache.

    python bench/lm_decode.py
    python bench/lm_decode.py --quick

The hybrid (4.1M parameters) is decoded by the engine that `twin lm generate` uses, with the weights
it chooses by itself (int8) and, for comparison, bf16 and fp32; and once more as on processors that
have less: AVX-VNNI, AVX2 without an instruction for bytes, x86-64's SSE2. The peer is an equally
large nanoGPT-style transformer in eager torch with a KV cache laid out beforehand, in float32 and
in bfloat16; the faster one at each context counts. Weights are random: no speed depends on them.
One thread; greedy; every token is chosen before the next is computed.

Both have really read the context that they are measured at: the hybrid token by token (its states
after 1K, 4K, 16K and 64K tokens are kept, and continued from), the transformer in parts of 512
tokens, up to 16K. All are measured in turns in random order, --rounds times, for --seconds of CPU.
`flat` is the slowest context's speed below the fastest's, by their ratios to 1K within a round. 64
streams step together against one. `step` is the hybrid called from Python for every token, as a
server does that picks tokens by its own rules; `run` continues natively.
The last line is JSON.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import verdict
from lm_peers.workers import Clock, Measure, Worker, WorkerFailed, peak_mb, serve

VOCABULARY = 65
HYBRID = {"d_model": 256, "n_layers": 4, "ffn_mult": 3.5}
CONTEXTS = (1_024, 4_096, 16_384, 65_536)
PEERS_LONGEST = 16_384
"""A KV cache of 64K at this size takes 640 MB a stream in float32, and seconds for ten tokens."""
QUICK_CONTEXTS = (1_024, 4_096)
STREAMS = 64
TARGETS = {
    "hybrid": {"weights": "auto"},
    "hybrid-bf16": {"weights": "bf16"},
    "hybrid-fp32": {"weights": "fp32"},
    "hybrid-avx-vnni": {"weights": "auto", "isa": "avx2", "needs_dots": True},
    "hybrid-avx2": {"weights": "auto", "isa": "avx2", "widened": True},
    "hybrid-plain": {"weights": "auto", "isa": "plain"},
    "transformer-fp32": {"kind": "float32"},
    "transformer-bf16": {"kind": "bfloat16"},
}
PEERS = ("transformer-fp32", "transformer-bf16")
MARGIN = 4_096
"""Room in the KV cache for the tokens that are measured."""
PART = 512


# --- the child ---


def build(spec: dict[str, Any]) -> tuple[dict[str, Any], Measure]:
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    return (_hybrid if "weights" in spec else _transformer)(spec)


def _hybrid(spec: dict[str, Any]) -> tuple[dict[str, Any], Measure]:
    if "isa" in spec:
        os.environ["TWIN_LM_ISA"] = spec["isa"]
    import numpy as np

    from twin.lm.config import HybridConfig, state_bytes
    from twin.lm.decode import Engine, library
    from twin.lm.kernels.native.build import level as build_level
    from twin.lm.model import HybridLM

    if spec.get("widened"):
        library.BYTE_DOTS.clear()
    config = HybridConfig(vocab_size=VOCABULARY, **HYBRID)
    model = HybridLM(config, seed=0)
    engine = Engine(model, weights=spec["weights"], threads=1)
    if engine.fallback:
        raise RuntimeError(engine.fallback)
    has_dots = library.has_byte_dots()
    if spec.get("needs_dots") and not has_dots:
        raise RuntimeError("this processor has no AVX-VNNI")
    state, read, kept = engine.init_state(1), 0, {}
    clock = Clock()
    last = np.zeros(1, np.int64)
    for context in spec["contexts"]:
        last = engine.run(last, state, context - read)[:, -1]
        read = context
        kept[context] = state.copy()
    many = engine.init_state(STREAMS)
    first = np.arange(STREAMS) % VOCABULARY

    def run(question: dict[str, Any]) -> Callable[[int], int]:
        if question["how"] == "streams":
            own, tokens = many.copy(), first
        else:
            own, tokens = kept[question["context"]].copy(), last

        def one(steps: int) -> int:
            nonlocal tokens
            if question["how"] == "step":
                for _ in range(steps):
                    tokens = engine.step(tokens, own).argmax(axis=1)
            else:
                tokens = engine.run(tokens, own, steps)[:, -1]
            return steps * len(tokens)

        return one

    ready = {
        "name": engine.name,
        "isa": build_level(),
        "bytes": "dots" if has_dots else "widened",
        "parameters": model.num_parameters(),
        "weight_mb": round(engine.weight_bytes / 2**20, 2),
        "state_bytes": {str(context): state.num_bytes for context, state in kept.items()},
        "state_bytes_foreseen": state_bytes(config),
        "read_tok_s": round(read / clock.cpu_s),
        "fallback": engine.fallback,
    }
    return ready, _measure(run, chunk=64)


def _transformer(spec: dict[str, Any]) -> tuple[dict[str, Any], Measure]:
    import torch

    from lm_peers.transformer import Decoder, Transformer, TransformerConfig, sized
    from lm_peers.transformer import num_parameters as num_transformer_parameters
    from twin.lm.config import HybridConfig, num_parameters

    size = num_parameters(HybridConfig(vocab_size=VOCABULARY, **HYBRID))
    contexts = [context for context in spec["contexts"] if context <= PEERS_LONGEST]
    room = max(contexts) + MARGIN
    shape = TransformerConfig(vocab_size=VOCABULARY, context=room, positions="learned")
    config = sized(size, shape)
    model = Transformer(config, seed=0)
    decoder = Decoder(model, context=room, kind=getattr(torch, spec["kind"]))
    prompt = torch.randint(VOCABULARY, (1, max(contexts)))
    clock = Clock()
    for begin in range(0, max(contexts), PART):
        decoder.step(prompt[:, begin : begin + PART])
    read_s, sizes = clock.cpu_s, {}
    for context in contexts:
        decoder.length = context
        sizes[str(context)] = decoder.state_bytes

    def run(question: dict[str, Any]) -> Callable[[int], int]:
        decoder.length = question["context"]
        token = prompt[:, :1]

        def one(steps: int) -> int:
            nonlocal token
            if decoder.length + steps > room:
                decoder.length = question["context"]
            for _ in range(steps):
                token = decoder.step(token).argmax(-1)[:, None]
            return steps

        return one

    ready = {
        "name": f"eager {spec['kind']}",
        "parameters": num_transformer_parameters(config),
        "state_bytes": sizes,
        "read_tok_s": round(max(contexts) / read_s),
    }
    return ready, _measure(run, chunk=8)


def _measure(run: Callable[[dict[str, Any]], Callable[[int], int]], *, chunk: int) -> Measure:
    def measure(question: dict[str, Any]) -> dict[str, Any]:
        one = run(question)
        one(chunk)
        clock, tokens = Clock(), 0
        while tokens == 0 or clock.wall_s < question["seconds"]:
            tokens += one(chunk)
        return {
            "tokens": tokens,
            "cpu_s": clock.cpu_s,
            "wall_s": clock.wall_s,
            "peak_mb": peak_mb(),
        }

    return measure


# --- the parent ---


def questions(target: str, contexts: Sequence[int]) -> list[dict[str, Any]]:
    if target in PEERS:
        return [{"how": "run", "context": c} for c in contexts if c <= PEERS_LONGEST]
    asked: list[dict[str, Any]] = [{"how": "run", "context": context} for context in contexts]
    if target == "hybrid":
        asked.append({"how": "step", "context": contexts[0]})
    return [*asked, {"how": "streams", "context": 0}]


def measured(given: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    ready: dict[str, Any] = {}
    runs: list[dict[str, Any]] = []
    drawn = random.Random(0)
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for target in given.targets:
            try:
                spec = {**TARGETS[target], "contexts": given.contexts}
                worker = Worker(Path(__file__), spec, threads=1)
            except WorkerFailed as error:
                print(f"  {target}: {error}", file=sys.stderr, flush=True)
                continue
            stack.callback(worker.stop)
            workers[target], ready[target] = worker, worker.ready
            print(f"  {target:18} {worker.ready['name']:14} {worker.ready['parameters']:,} "
                  f"parameters", flush=True)  # fmt: skip
        asked = [(t, question) for t in workers for question in questions(t, given.contexts)]
        for number in range(given.rounds):
            for target, question in drawn.sample(asked, len(asked)):
                try:
                    told = workers[target].ask(**question, seconds=given.seconds)
                except WorkerFailed as error:
                    print(f"  {target} {question}: {error}", file=sys.stderr, flush=True)
                    continue
                run = {"target": target, "round": number, **question, **told}
                run["tok_s"] = run["tokens"] / run["cpu_s"]
                runs.append(run)
                print(f"  {number} {target:18} {question['how']:8} {question['context']:6} "
                      f"{run['tok_s']:9.0f} tok/s a core", flush=True)  # fmt: skip
    return ready, runs


class Figures:
    def __init__(self, runs: Sequence[dict[str, Any]]) -> None:
        self.runs = runs

    def speed(self, target: str, how: str, context: int) -> float | None:
        wanted = (target, how, context)
        return verdict.median(
            [r["tok_s"] for r in self.runs if (r["target"], r["how"], r["context"]) == wanted]
        )

    def ratio(self, ours: tuple[str, str, int], theirs: tuple[str, str, int]) -> float | None:
        """Median of the ratios within a round."""
        by = {(r["target"], r["how"], r["context"], r["round"]): r["tok_s"] for r in self.runs}
        rounds = sorted({run["round"] for run in self.runs})
        pairs = [(by.get((*ours, n)), by.get((*theirs, n))) for n in rounds]
        return verdict.median([a / b for a, b in pairs if a and b])

    def fastest_peer(self, context: int) -> str | None:
        known = {peer: self.speed(peer, "run", context) for peer in PEERS}
        found = {peer: speed for peer, speed in known.items() if speed is not None}
        return max(found, key=lambda peer: found[peer]) if found else None

    def against_peer(self, context: int) -> float | None:
        peer = self.fastest_peer(context)
        return self.ratio(("hybrid", "run", context), (peer, "run", context)) if peer else None

    def slowest(self, target: str, contexts: Sequence[int]) -> float | None:
        """None where one was not measured."""
        speeds = [self.speed(target, "run", context) for context in contexts]
        known = [speed for speed in speeds if speed is not None]
        return min(known) if known and len(known) == len(speeds) else None

    def not_flat(self, contexts: Sequence[int]) -> float | None:
        """Per cent by which the slowest context is below the fastest, each against the first within
        a round: over minutes the machine's own speed changes by more."""
        first = ("hybrid", "run", contexts[0])
        ratios = [self.ratio(("hybrid", "run", context), first) for context in contexts]
        known = [ratio for ratio in ratios if ratio is not None]
        return 100 * (1 - min(known) / max(known)) if len(known) == len(contexts) else None

    def table(self) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for run in self.runs:
            name = f"{run['how']}-{run['context']}" if run["context"] else run["how"]
            speed = self.speed(run["target"], run["how"], run["context"])
            told.setdefault(run["target"], {})[name] = round(speed or 0, 1)
        return told


def bars(figures: Figures, ready: dict[str, Any], contexts: Sequence[int]) -> list[dict[str, Any]]:
    state = max(ready["hybrid"]["state_bytes"].values()) if "hybrid" in ready else None
    return [
        verdict.at_least(
            "tok/s a core, one stream, slowest context", 4_000, figures.slowest("hybrid", contexts)
        ),
        verdict.at_least(
            "the same with AVX2 alone", 4_000, figures.slowest("hybrid-avx2", contexts)
        ),
        verdict.at_most(
            f"change of speed from {contexts[0]:,} to {contexts[-1]:,} tokens", 5,
            figures.not_flat(contexts), unit=" %",
        ),
        verdict.at_least(
            "speed against the transformer with KV cache at 16,384 tokens", 80,
            figures.against_peer(PEERS_LONGEST), unit="x",
        ),
        verdict.below("state of a stream, KiB", 300, state and state / 1024),
        verdict.at_least(
            f"{STREAMS} streams together against one", 10,
            figures.ratio(("hybrid", "streams", 0), ("hybrid", "run", contexts[0])), unit="x",
        ),
    ]  # fmt: skip


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="contexts of 1K and 4K")
    parser.add_argument("--targets", default="", help=f"of {','.join(TARGETS)}")
    parser.add_argument("--rounds", type=int, help="default 7, quick 3")
    parser.add_argument("--seconds", type=float, help="of each run; default 1, quick 0.3")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    options.rounds = options.rounds or (3 if options.quick else 7)
    options.seconds = options.seconds or (0.3 if options.quick else 1.0)
    options.contexts = list(QUICK_CONTEXTS if options.quick else CONTEXTS)
    wanted = options.targets.split(",") if options.targets else TARGETS
    options.targets = [target for target in TARGETS if target in wanted]
    return options


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    if options.worker:
        return serve(build)
    began = time.perf_counter()
    ready, runs = measured(options)
    figures = Figures(runs)
    shared = [context for context in options.contexts if context <= PEERS_LONGEST]
    return verdict.tell(
        "lm_decode",
        verdict.versions("numpy"),
        {
            "quick": options.quick,
            **verdict.machine(),
            "rounds": options.rounds,
            "seconds": options.seconds,
            "took_s": round(time.perf_counter() - began),
            "ready": ready,
            "tok_s_core": figures.table(),
            "against_transformer": {
                str(context): {
                    "peer": figures.fastest_peer(context),
                    "ratio": verdict.rounded(figures.against_peer(context)),
                }
                for context in shared
            },
        },
        bars(figures, ready, options.contexts),
    )


if __name__ == "__main__":
    sys.exit(main())
