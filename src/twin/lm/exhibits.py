"""Turns figures into the plots and tables of a gate's report.

Owns titles, notes and columns; `plots` draws, `report` lays out. Judges nothing.
"""

from collections.abc import Sequence

from twin.lm import plots
from twin.lm.diagnostics import Ablation, Gradients, LayerReading
from twin.lm.gates_trained import TrainingPoint, ValidationPoint
from twin.lm.recall import NeedleScore
from twin.lm.recall_training import RecallPoint
from twin.lm.report import Plot, Table
from twin.lm.state_health import EVERY, StateReading

_NAMES = {"rwkv": "RWKV", "mamba": "Mamba", "ngrams": "n-grams"}
_MAX_POINTS = 400
"""Of a drawn line; a long run's metrics would make a page of megabytes."""


def training_plot(points: Sequence[TrainingPoint], validation: Sequence[ValidationPoint]) -> Plot:
    """Loss over steps."""
    series = {
        "training": [(float(one.step), one.loss) for one in _thinned(points)],
        "validation": [(float(one.step), one.loss) for one in validation],
    }
    return Plot(
        title="Loss over training",
        svg=plots.lines("Loss over training", series, x="step", y="nats per token"),
        note="Training loss is of single batches.",
    )


def ratio_plot(points: Sequence[TrainingPoint]) -> Plot:
    """The pathways' gradient ratio over steps."""
    series = [
        (float(one.step), one.pathway_ratio)
        for one in _thinned(points)
        if one.pathway_ratio is not None and one.pathway_ratio > 0
    ]
    return Plot(
        title="Gradient ratio over training",
        svg=plots.lines("Gradient ratio over training", {"RWKV over Mamba": series}, x="step",
                        y="ratio", log_y=True, band=(0.3, 3.0)),
        note="L2 norm of RWKV's gradients over Mamba's, all layers; the band passes.",
    )  # fmt: skip


def contribution_plot(layers: Sequence[LayerReading]) -> Plot:
    """What each pathway adds, by layer."""
    known = [one for one in layers if one.rwkv_norm is not None and one.mamba_norm is not None]
    return Plot(
        title="What each pathway adds",
        svg=plots.bars(
            "What each pathway adds", [f"layer {one.layer}" for one in known],
            {"RWKV": [one.rwkv_norm or 0.0 for one in known],
             "Mamba": [one.mamba_norm or 0.0 for one in known]}, y="root mean square",
        ),
        note="After gate or gain, before the residual stream.",
    )  # fmt: skip


def gradient_plot(gradients: Gradients) -> Plot:
    """Gradient norms by layer."""
    return Plot(
        title="Gradients of the pathways",
        svg=plots.bars(
            "Gradients of the pathways", [f"layer {one.layer}" for one in gradients.layers],
            {"RWKV": [one.rwkv for one in gradients.layers],
             "Mamba": [one.mamba for one in gradients.layers]}, y="L2 norm",
        ),
        note="One backward pass over held-out text.",
    )  # fmt: skip


def cosine_plot(states: Sequence[StateReading]) -> Plot:
    """Cosine of consecutive states by layer."""
    series = {
        name: [(float(one.layer), one.cosine) for one in states if one.pathway == pathway]
        for name, pathway in (("RWKV", "rwkv"), ("Mamba", "mamba"))
    }
    return Plot(
        title="How far states move",
        svg=plots.lines("How far states move", series, x="layer", y="cosine"),
        note=f"Cosine between states {EVERY} tokens apart: 1 is frozen, above 0.99 fails.",
    )


def variance_plot(layers: Sequence[LayerReading]) -> Plot:
    """Variance of the residual stream by layer."""
    series = {
        "after the layer": [(float(one.layer), one.variance_out) for one in layers],
        "before it": [(float(one.layer), one.variance_in) for one in layers],
    }
    return Plot(
        title="Variance of the residual stream",
        svg=plots.lines("Variance of the residual stream", series, x="layer", y="variance",
                        log_y=True),
        note="A layer that multiplies it many times over drowns what came before.",
    )  # fmt: skip


def position_plot(positions: Sequence[tuple[float, float]]) -> Plot:
    """Loss by position."""
    return Plot(
        title="Loss by position",
        svg=plots.lines("Loss by position", {"loss": list(positions)}, x="tokens read before",
                        y="nats per token", log_x=True),
        note="From an empty state. Where it is flat, more context is of no use to the model.",
    )  # fmt: skip


def needle_plot(scores: Sequence[NeedleScore]) -> Plot:
    """Symbols found by length and depth."""
    lengths = sorted({one.length for one in scores})
    depths = sorted({one.depth for one in scores})
    found = {(one.length, one.depth): one for one in scores}
    chance = f"{scores[0].symbol_chance:.3f}" if scores else "-"
    return Plot(
        title="Needle in a haystack",
        svg=plots.heat(
            "Needle in a haystack", [f"{length:,}" for length in lengths],
            [f"{depth:g}" for depth in depths],
            [[found[length, depth].symbol_accuracy for depth in depths] for length in lengths],
            x="depth (0: at the start)", y="tokens",
        ),
        note=f"Share of the value's symbols that were the likeliest; chance is {chance}.",
    )  # fmt: skip


def recall_plot(points: Sequence[RecallPoint]) -> Plot:
    """MQAR accuracy over the number of keys."""
    series: dict[str, list[tuple[float, float]]] = {}
    for one in points:
        series.setdefault(one.network, []).append((float(one.num_keys), one.accuracy))
        series.setdefault("chance", [])
    if points:
        first = points[0].network
        series["chance"] = [
            (float(one.num_keys), one.chance) for one in points if one.network == first
        ]
    return Plot(
        title="Many keys and values (MQAR)",
        svg=plots.lines("Many keys and values", series, x="keys", y="accuracy", log_x=True),
        note="Small networks trained on the task alone, equally long: what a fixed state holds, "
        "and what one layer of attention, or induction, adds.",
    )


def layer_table(layers: Sequence[LayerReading], gradients: Gradients) -> Table:
    """Everything by layer."""
    pairs = {one.layer: one for one in gradients.layers}
    rows = [
        (
            one.layer, one.rwkv_norm, one.mamba_norm, one.rwkv_share, one.gate_mean,
            one.gate_saturated, one.amplification,
            pairs[one.layer].ratio if one.layer in pairs else None,
            pairs[one.layer].coupling if one.layer in pairs else None,
        )
        for one in layers
    ]  # fmt: skip
    return Table(
        title="Layer by layer",
        columns=("layer", "RWKV adds", "Mamba adds", "RWKV's share", "gate", "gates stuck",
                 "variance gain", "gradient ratio", "coupling"),
        rows=tuple(rows),
        note="Coupling: cosine between what both pathways ask of their shared input.",
    )  # fmt: skip


def state_table(states: Sequence[StateReading]) -> Table:
    """Every state."""
    return Table(
        title="States",
        columns=("layer", "pathway", "cosine", "top-5 share", "effective rank", "of", "entropy",
                 "largest"),
        rows=tuple(
            (one.layer, one.pathway, one.cosine, one.top5_share, one.effective_rank, one.max_rank,
             one.entropy, one.largest)
            for one in states
        ),
    )  # fmt: skip


def worth_table(worth: Ablation, contexts: Sequence[tuple[int, float]]) -> Table:
    """Losses with parts taken away."""
    rows: list[tuple[object, ...]] = [("everything", worth.loss)]
    rows += [(f"without {_NAMES.get(part, part)}", loss) for part, loss in worth.without.items()]
    rows += [(f"the same 64 tokens after {context:,} others", loss) for context, loss in contexts]
    return Table(title="What it depends on", columns=("with", "nats per token"), rows=tuple(rows))


def needle_table(scores: Sequence[NeedleScore]) -> Table:
    """Every length and depth."""
    return Table(
        title="Needle in a haystack",
        columns=("tokens", "depth", "questions", "symbols right", "chance", "whole value right",
                 "median rank", "by chance", "gain (nats a symbol)", "error of the gain"),
        rows=tuple(
            (one.length, one.depth, one.num_questions, one.symbol_accuracy, one.symbol_chance,
             one.exact, one.median_rank, one.chance_rank, one.gain, one.gain_error)
            for one in scores
        ),
        note="The gain is against the same question without a needle: a fixed state that keeps "
        "nothing of it gains 0.",
    )  # fmt: skip


def recall_table(points: Sequence[RecallPoint]) -> Table:
    """MQAR by network and number of keys."""
    return Table(
        title="Many keys and values (MQAR)",
        columns=("network", "parameters", "state, bytes", "keys", "accuracy", "chance"),
        rows=tuple(
            (one.network, one.num_parameters, one.state_bytes, one.num_keys, one.accuracy,
             one.chance)
            for one in points
        ),
        note="Trained on the task alone; the anchor's cache of keys and values is not in the "
        "bytes of its state, for it grows with the text.",
    )  # fmt: skip


def _thinned(points: Sequence[TrainingPoint]) -> Sequence[TrainingPoint]:
    return points[:: max(1, -(-len(points) // _MAX_POINTS))]
