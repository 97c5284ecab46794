"""Routing: APGR, CPT and calibration of a router that is trained on one half, tested on the other.

    python bench/router.py DATA.jsonl[.gz]

DATA holds one JSON object a line with `prompt`, `weak_correct`, `strong_correct` and `subject`.
Five seeds, two ways to halve the rows: `subject` holds out whole subjects, so that nothing of what
a test question is about was ever trained on; `half` draws rows. The router is what `twin train
router` fits, with its recipe and its calibration chosen on inner folds of the training half alone;
the test half is scored once. `random` and `length` (the longer, the rather the big model) are
scored on the same test halves. `shuffled` is what the learners make of outcomes that were dealt
anew among the training rows: where it beats chance, something leaks. Lines with the same prompt
count once, so that no test question was trained on.

Definitions are `twin.gate.routing`'s. Latency is one question at a time, from text to decision, all
in one thread. The last line is JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from twin.curate.routing import read_examples
from twin.gate.routing import NUM_BINS, calibration_error, curve
from twin.records import RoutingExample
from twin.specialists.router import Router
from twin.specialists.router_features import see
from twin.train.router import Folds, fit_router

SEEDS = 5
RANDOM_RUNS = 10
QUICK_ROWS = 2_000
LATENCY_ROWS = 2_000
FIGURES = ("apgr", "cpt50", "cpt80")

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass
class Half:
    """What one training half makes of its test half."""

    split: str
    seed: int
    figures: dict[str, dict[str, float]]
    """Per router."""
    ece: float
    recipe: str
    calibration: str
    inner: dict[str, float]
    seconds: float
    router: Router = field(repr=False)


def halves(examples: Sequence[RoutingExample], split: str, seed: int) -> Mask:
    """True for the training half."""
    rng = np.random.default_rng(seed)
    if split == "half":
        chosen = np.zeros(len(examples), bool)
        chosen[rng.permutation(len(examples))[: len(examples) // 2]] = True
        return chosen
    names, which = np.unique([example.group for example in examples], return_inverse=True)
    return np.isin(which, rng.permutation(len(names))[: len(names) // 2])


def scored(scores: Floats, weak: Floats, strong: Floats) -> dict[str, float]:
    found = curve(scores, weak, strong)
    return {"apgr": found.apgr, "cpt50": found.cpt(0.5), "cpt80": found.cpt(0.8)}


def mean_of(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in figures])) for name in FIGURES}


def one_half(examples: Sequence[RoutingExample], split: str, seed: int, *, shuffled: bool) -> Half:
    train = halves(examples, split, seed)
    ours = [example for example, own in zip(examples, train, strict=True) if own]
    theirs = [example for example, own in zip(examples, train, strict=True) if not own]
    folds: Folds = "group" if split == "subject" else "row"
    started = time.perf_counter()
    learnt = fit_router(ours, folds=folds, seed=seed)
    seconds = time.perf_counter() - started
    router = Router.load(learnt.to_bytes())
    told = [router.classify(example.question) for example in theirs]
    weak = np.array([example.weak for example in theirs], np.float64)
    strong = np.array([example.strong for example in theirs], np.float64)
    rng = np.random.default_rng([seed, 1])
    length = np.array([len(example.question.text) for example in theirs], np.float64)
    figures = {
        "router": scored(np.array([one.gain for one in told]), weak, strong),
        "length": scored(length, weak, strong),
        "random": mean_of(
            [scored(rng.random(len(weak)), weak, strong) for _ in range(RANDOM_RUNS)]
        ),
        "oracle": scored(strong - weak + 1e-6 * rng.random(len(weak)), weak, strong),
    }
    if shuffled:
        figures["shuffled"] = scored(_shuffled_gain(ours, theirs, folds, seed), weak, strong)
    return Half(
        split=split,
        seed=seed,
        figures=figures,
        ece=calibration_error(np.array([one.confidence for one in told]), weak),
        recipe=learnt.card.recipe,
        calibration=learnt.calibration.kind,
        inner=learnt.card.inner,
        seconds=seconds,
        router=router,
    )


def _shuffled_gain(
    ours: list[RoutingExample], theirs: list[RoutingExample], folds: Folds, seed: int
) -> Floats:
    """What the learners predict after training on outcomes that belong to other rows. Without the
    length, which is no label's doing and beats chance by itself."""
    dealt = np.random.default_rng([seed, 2]).permutation(len(ours))
    mixed = [
        msgspec.structs.replace(example, weak=ours[other].weak, strong=ours[other].strong)
        for example, other in zip(ours, dealt, strict=True)
    ]
    learnt = fit_router(mixed, folds=folds, seed=seed)
    opinions = np.array([learnt.opinions(*see(example.question)) for example in theirs])
    gains = opinions[..., 1] - opinions[..., 0]
    return np.asarray(((gains - gains.mean(axis=0)) / gains.std(axis=0)).sum(axis=1), np.float64)


def run(examples: Sequence[RoutingExample], seeds: int, shuffled_seeds: int) -> Iterator[Half]:
    for split in ("subject", "half"):
        for seed in range(seeds):
            half = one_half(examples, split, seed, shuffled=seed < shuffled_seeds)
            ours = half.figures["router"]
            print(
                f"  {split:8} seed {seed}  APGR {ours['apgr']:.3f}  CPT50 {ours['cpt50']:.3f}  "
                f"CPT80 {ours['cpt80']:.3f}  length {half.figures['length']['apgr']:.3f}  "
                f"ECE {half.ece:.4f}  {half.recipe}, {half.calibration}  {half.seconds:.1f} s",
                flush=True,
            )
            yield half


def summary(found: Sequence[Half], split: str) -> dict[str, object]:
    """Mean and standard deviation over the seeds, per router and figure."""
    mine = [half for half in found if half.split == split]
    rankers = dict.fromkeys(name for half in mine for name in half.figures)
    told: dict[str, object] = {
        name: {
            figure: spread([half.figures[name][figure] for half in mine if name in half.figures])
            for figure in FIGURES
        }
        for name in rankers
    }
    told["calibration_error"] = spread([half.ece for half in mine])
    told["recipes"] = [half.recipe for half in mine]
    told["inner_apgr"] = [{k: round(v, 4) for k, v in half.inner.items()} for half in mine]
    return told


def spread(values: Sequence[float]) -> dict[str, float]:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": round(float(np.mean(values)), 4), "sd": round(deviation, 4)}


def latency(router: Router, examples: Sequence[RoutingExample]) -> dict[str, float]:
    """Microseconds from a question to its decision."""
    step = max(len(examples) // LATENCY_ROWS, 1)
    questions = [example.question for example in examples[::step]][:LATENCY_ROWS]
    for question in questions[:50]:
        router.classify(question)
    taken = []
    for question in questions:
        started = time.perf_counter_ns()
        router.classify(question)
        taken.append((time.perf_counter_ns() - started) / 1000)
    p50, p99 = np.percentile(taken, [50, 99])
    return {"p50_us": round(float(p50), 1), "p99_us": round(float(p99), 1)}


def bar(name: str, must: float, got: float, *, most: bool = False) -> dict[str, object]:
    holds = got < must if most else got >= must
    sign = "<" if most else ">="
    return {"name": name, "must": f"{sign} {must}", "got": round(got, 4), "holds": bool(holds)}


def table(title: str, told: dict[str, object]) -> None:
    print(f"\n{title:28}{'APGR':>16}{'CPT(50 %)':>16}{'CPT(80 %)':>16}")
    for name, figures in told.items():
        if isinstance(figures, dict) and "apgr" in figures:
            cells = [figures[figure] for figure in FIGURES]
            print(f"  {name:26}" + "".join(f"{c['mean']:9.3f} ±{c['sd']:.3f}" for c in cells))
    error = told["calibration_error"]
    assert isinstance(error, dict)
    print(f"  calibration error of P(small model right): {error['mean']:.4f} ±{error['sd']:.4f}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA", help="JSON lines, gzip or plain")
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer rows and seeds")
    given = parser.parse_args(arguments)
    read = read_examples(given.data)
    examples = list(read.examples)
    if any(example.weak is None or example.strong is None for example in examples):
        raise SystemExit("Every line needs weak_correct and strong_correct.")
    if len({example.group for example in examples}) < 4:
        raise SystemExit("Lines need a `subject` each, at least four different ones.")
    if given.quick:
        kept = np.random.default_rng(0).permutation(len(examples))[:QUICK_ROWS]
        examples = [examples[at] for at in np.sort(kept)]
    repeated = read.dropped.get("repeated", 0)
    print(f"{given.data.name}: {len(examples)} rows; {repeated} repeated ones left out", flush=True)
    seeds = 2 if given.quick else SEEDS
    found = list(run(examples, seeds, shuffled_seeds=1 if given.quick else SEEDS))
    by = {split: summary(found, split) for split in ("subject", "half")}
    table("Whole subjects held out", by["subject"])
    table("Half of the rows held out", by["half"])
    speed = {
        "router": latency(found[-1].router, examples),
        "rules": latency(Router.rules(), examples),
    }
    print(f"\nOne request: p50 {speed['router']['p50_us']} us, p99 {speed['router']['p99_us']} us; "
          f"rules alone p50 {speed['rules']['p50_us']} us")  # fmt: skip
    bars = list(_bars(found, speed))
    weak = float(np.mean([example.weak for example in examples]))
    print(
        json.dumps(
            {
                "bench": "router",
                "versions": {
                    **{name: version(name) for name in ("cognitive-twin", "lightgbm", "numpy")},
                    "python": sys.version.split()[0],
                },
                "figures": {
                    "quick": given.quick,
                    "rows": len(examples),
                    "subjects": len({example.group for example in examples}),
                    "weak_accuracy": round(weak, 4),
                    "strong_accuracy": round(float(np.mean([e.strong for e in examples])), 4),
                    "by_subject": by["subject"],
                    "half_half": by["half"],
                    "calibration_bins": NUM_BINS,
                    "calibration_error_by_chance": round(
                        0.8 * (weak * (1 - weak) * NUM_BINS / (len(examples) / 2)) ** 0.5, 4
                    ),
                    "latency": speed,
                },
                "bars": bars,
            }
        )
    )
    return 0 if all(one["holds"] for one in bars) else 1


def _bars(found: Sequence[Half], speed: dict[str, dict[str, float]]) -> Iterator[dict[str, object]]:
    def mean(split: str, name: str) -> float:
        return float(np.mean([h.figures[name]["apgr"] for h in found if h.split == split]))

    yield bar("APGR, whole subjects held out", 0.60, mean("subject", "router"))
    yield bar("APGR, half of the rows held out", 0.68, mean("half", "router"))
    for split, name in (("subject", "whole subjects"), ("half", "half of the rows")):
        ahead = mean(split, "router") - mean(split, "length")
        yield bar(f"APGR ahead of prompt length, {name}", 0.0, ahead)
    yield bar("calibration error, half of the rows held out", 0.03,
              float(np.mean([h.ece for h in found if h.split == "half"])), most=True)  # fmt: skip
    yield bar("p50 a request, ms", 1.0, speed["router"]["p50_us"] / 1000, most=True)


if __name__ == "__main__":
    sys.exit(main())
