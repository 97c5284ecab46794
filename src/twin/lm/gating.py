"""Runs the gates that a stage asks for, and brings about what they judge.

Owns the order (build, before training, before a long run, before scaling up) and the evidence: what
text is read, when a copy is trained on the side, what is drawn. Thresholds are in `gates` and
`gates_trained`, figures in `diagnostics`, `state_health` and `recall`, drawings in `exhibits`.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from twin.lm import diagnostics, exhibits, gates, gates_trained
from twin.lm.config import state_bytes
from twin.lm.errors import BadCorpus
from twin.lm.evaluate import evaluate
from twin.lm.evidence import Subject, Text
from twin.lm.gates_trained import FULL_RUN, WARM_UP, ValidationPoint
from twin.lm.model import HybridLM
from twin.lm.probe import train_briefly
from twin.lm.recall import NeedleScore, needle_scores
from twin.lm.recall_training import RecallPoint, compare_recall
from twin.lm.report import Plot, Report, Table, build_report
from twin.lm.state_health import state_readings
from twin.lm.verdict import Verdict

Stage = Literal["build", "train", "long", "scale"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
Tell = Callable[[str, int, int], None]
MAX_STREAMS: Final = 4
MAX_LENGTH: Final = 2048
"""Diagnostics read at most this many tokens of as many streams: seconds, not minutes."""
MAX_LOSS_BYTES: Final = 131_072


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the caller decides."""

    stage: Stage = "scale"
    steps: int = FULL_RUN
    """Length of the run on the side where no metrics are known; 0: none."""
    target: float | None = None
    recall: bool = False
    draw: bool = False
    """Whether the report gets its plots; a second of work that only a page shows."""
    needle_lengths: tuple[int, ...] = (4096, 8192, 16384)
    needle_seeds: int = 8
    recall_steps: int = 1200
    kernels: str = "auto"
    seed: int = 0


def judge(
    subject: Subject,
    text: Text,
    options: Options | None = None,
    *,
    against: Subject | None = None,
    made: str = "",
    tell: Tell = lambda what, done, total: None,
) -> Report:
    """Every verdict of the stage, with the figures behind them.

    Raises BadCorpus for text too short to judge by. The subject's model is not changed.
    """
    options = options or Options()
    model, depth = subject.model, STAGES.index(options.stage)
    held = _streams(subject, text.held_out)
    verdicts: list[Verdict] = [
        *gates.g0_tokenizer(subject.tokenizer, model.config.vocab_size),
        gates.g0_kernels(options.kernels, next(model.parameters()).device),
    ]
    tell("Forward pass", 0, 0)
    forward = gates.g1(model, held)
    verdicts += forward
    plots: list[Plot] = []
    tables: list[Table] = []
    # With NaN in the weights every later figure is NaN: the cause is already named.
    broken = any(one.grade == "fail" and one.check in ("finite", "shape") for one in forward)
    if depth >= STAGES.index("train"):
        verdicts += gates.g2(_untrained(subject, options), held)
    if depth >= STAGES.index("long") and not broken:
        found = _judge_training(subject, text, held, options, tell)
        verdicts += found[0]
        plots += found[1]
        tables += found[2]
    if depth >= STAGES.index("scale") and not broken:
        verdicts += _judge_scale(subject, against, text, options)
    if options.recall and not broken:
        found = _judge_recall(subject, text, options, tell)
        plots += found[1]
        tables += found[2]
    return build_report(
        title=subject.name, made=made, stage=options.stage, facts=_facts(subject, text),
        verdicts=sorted(verdicts, key=_gate_order), plots=plots, tables=tables,
    )  # fmt: skip


_Part = tuple[list[Verdict], list[Plot], list[Table]]


def _judge_training(
    subject: Subject, text: Text, held: Tensor, options: Options, tell: Tell
) -> _Part:
    """G3, G3.5 and G4."""
    model, steps, points = subject.model, subject.steps, subject.history
    if not points and options.steps:
        trained = _untrained(subject, options)
        tokens = _encoded(subject, text.train)
        batch = min(8, max(1, len(tokens) // 256))
        points = tuple(
            train_briefly(trained, tokens, steps=options.steps, batch=batch, seed=options.seed,
                          tell=lambda done, total: tell("Training on the side", done, total))
        )  # fmt: skip
        if steps < WARM_UP and math.isfinite(points[-1].loss):
            model, steps = trained, points[-1].step
    elif steps < WARM_UP and options.steps:
        model = copy.deepcopy(model)
        more = train_briefly(model, _encoded(subject, text.train), steps=WARM_UP, batch=4)
        steps += len(more)
    tell("Diagnostics", 0, 0)
    layers = diagnostics.layer_readings(model, held)
    gradients = diagnostics.gradients(model, held[:, :257])
    worth = diagnostics.ablation(model, held)
    states = state_readings(model, held)
    verdicts = [
        *gates_trained.g3(points),
        *gates_trained.g35(states, layers, steps=steps),
        *gates_trained.g4(gradients, layers, worth, steps=steps),
    ]
    contexts = diagnostics.context_gain(model, held)
    tables = [
        exhibits.layer_table(layers, gradients),
        exhibits.state_table(states),
        exhibits.worth_table(worth, contexts),
    ]
    if not options.draw:
        return verdicts, [], tables
    plots = [
        exhibits.training_plot(points, subject.validation),
        exhibits.ratio_plot(points),
        exhibits.contribution_plot(layers),
        exhibits.gradient_plot(gradients),
        exhibits.cosine_plot(states),
        exhibits.variance_plot(layers),
        exhibits.position_plot(diagnostics.loss_by_position(model, held)),
    ]
    return verdicts, plots, tables


def _judge_scale(
    subject: Subject, against: Subject | None, text: Text, options: Options
) -> list[Verdict]:
    """G3.6 and G5."""
    found = []
    if against is None:
        found.append(
            gates_trained.not_asked("G3.6", "against the other version",
                                    "Nothing to compare with was named (`--against`).")
        )  # fmt: skip
    else:
        found.append(_compare(subject, against, text))
    if options.target is None:
        found.append(
            gates_trained.not_asked("G5", "target loss", "No target was named (`--target`).")
        )
    else:
        nats, _ = held_out_loss(subject, text.held_out)
        found.append(gates_trained.g5(nats, options.target))
    return found


def _compare(ours: Subject, theirs: Subject, text: Text) -> Verdict:
    """At the last step that both runs know, where both know it of the same text; else as they are,
    on this text, where both have as many steps. Runs with different tokenizers are compared as they
    are, in nats per byte."""
    one_text = bool(ours.corpus_key) and ours.corpus_key == theirs.corpus_key
    same = ours.tokenizer == theirs.tokenizer
    if same and one_text and ours.steps != theirs.steps and ours.validation and theirs.validation:
        step = min(ours.validation[-1].step, theirs.validation[-1].step)
        left, right = (_at(one.validation, step) for one in (ours, theirs))
        if left is not None and right is not None:
            return gates_trained.g36(left, right, our_steps=step, their_steps=step)
    left, right = (held_out_loss(one, text.held_out)[0 if same else 1] for one in (ours, theirs))
    verdict = gates_trained.g36(left, right, our_steps=ours.steps, their_steps=theirs.steps)
    if one_text:
        return verdict
    known = " The other was trained on another text, and may have learnt what is measured on here."
    return replace(verdict, sentence=verdict.sentence + known)


def _at(points: Sequence[ValidationPoint], step: int) -> float | None:
    """The loss at a step, between the two points around it; None before the first."""
    if not points or step < points[0].step or step > points[-1].step:
        return None
    xs, ys = [one.step for one in points], [one.loss for one in points]
    return float(np.interp(step, xs, ys))


def held_out_loss(subject: Subject, data: bytes) -> tuple[float, float]:
    """Nats per token and per byte over at most MAX_LOSS_BYTES, in windows without a past, in
    float32."""
    data = data[:MAX_LOSS_BYTES]
    tokens = _encoded(subject, data)
    found = evaluate(subject.model, tokens, precision="fp32").nats_per_token
    return found, found * len(tokens) / len(data)


def _judge_recall(subject: Subject, text: Text, options: Options, tell: Tell) -> _Part:
    """Needle and MQAR: figures, no verdict, since no gate of the specification asks for one."""
    tokens = _encoded(subject, text.held_out)
    known = sorted(set(tokens.tolist()) - set(subject.tokenizer.control.values()))
    needles: list[NeedleScore] = []
    for place, length in enumerate(options.needle_lengths):
        tell("Needle in a haystack", place, len(options.needle_lengths))
        needles += needle_scores(
            subject.model, tokens.tolist(), symbols=known, lengths=(length,),
            seeds=range(options.needle_seeds),
        )  # fmt: skip
    points: list[RecallPoint] = compare_recall(
        steps=options.recall_steps, seed=options.seed,
        tell=lambda done, total: tell("Many keys and values", done, total),
    )  # fmt: skip
    plots = [exhibits.needle_plot(needles), exhibits.recall_plot(points)] if options.draw else []
    return [], plots, [exhibits.needle_table(needles), exhibits.recall_table(points)]


def _untrained(subject: Subject, options: Options) -> HybridLM:
    """The same network before its first step."""
    model = HybridLM(subject.model.config, kernels=subject.model.kernels, seed=options.seed)
    return model.to(next(subject.model.parameters()).device)


def _encoded(subject: Subject, data: bytes) -> Any:
    """Token numbers, int64."""
    return subject.tokenizer.encode_bytes(data).astype(np.int64)


def _streams(subject: Subject, data: bytes) -> Tensor:
    """Held-out text as (B, T+1), streams from evenly spaced places."""
    tokens = _encoded(subject, data)
    rows = min(MAX_STREAMS, len(tokens) // 130)
    if rows < 1:
        raise BadCorpus(
            f"The held-out text has {len(tokens)} tokens; 130 are the least to judge by. "
            "Give more text."
        )
    length = min(MAX_LENGTH, len(tokens) // rows - 1)
    starts = [row * (len(tokens) // rows) for row in range(rows)]
    rows_BT = np.stack([tokens[start : start + length + 1] for start in starts])
    return torch.from_numpy(rows_BT).to(next(subject.model.parameters()).device)


def _facts(subject: Subject, text: Text) -> list[tuple[str, str]]:
    config = subject.model.config
    fusion = config.fusion if config.pathways == "both" else "one pathway"
    return [
        ("parameters", f"{subject.model.num_parameters():,}"),
        ("shape", f"{config.n_layers} layers of {config.d_model}, pathways {config.pathways}, "
                  f"fusion {fusion}"),
        ("state", f"{state_bytes(config) / 1024:,.0f} KiB a stream"
                  + (" and the anchors' growing cache" if config.attention_every else "")),
        ("vocabulary", f"{config.vocab_size:,} tokens, {subject.tokenizer.kind}"),
        ("kernels", subject.model.kernels.name),
        ("steps trained", f"{subject.steps:,}"),
        ("held-out text", f"{len(text.held_out):,} bytes"),
    ]  # fmt: skip


def _gate_order(verdict: Verdict) -> float:
    return float(verdict.gate.removeprefix("G"))
