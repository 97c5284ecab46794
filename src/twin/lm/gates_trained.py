"""The gates G3 to G5: it learns, its states are alive, both pathways are used, it is good enough.

Owns their thresholds, each as a `Band` in words with its reason. Every gate is a function from
figures (`diagnostics`, `state_health`, a run's metrics) to verdicts. A figure that is not finite
always fails.

At the start a gradient ratio of 0.1 is normal, since the gates start Mamba-heavy by choice (0.10
was measured at the start, 0.5 to 1.3 trained); a gradient norm of 3 likewise. So both, and the
states, are judged after WARM_UP steps; before, the verdict is `not yet`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from twin.lm.diagnostics import Ablation, Gradients, LayerReading
from twin.lm.state_health import EVERY, StateReading
from twin.lm.verdict import Band, Grade, Verdict

WARM_UP = 100
"""Steps after which gradients and states say something."""
FULL_RUN = 1000
"""Steps that G3 asks for."""

_FALL = Band(pass_to=0.95, warn_to=1.0, unit="last tenth of the losses over the first")
_RISE = Band(pass_to=1.05, warn_to=1.10, unit="last tenth over the best tenth")
_GRADIENT_NORM = Band(pass_from=0.5, pass_to=1.5, warn_from=0.05, warn_to=5.0,
                      unit="median of the last fifth, before clipping")  # fmt: skip
_COSINE = Band(pass_to=0.95, warn_to=0.99, unit=f"states {EVERY} tokens apart")
_TOP5 = Band(pass_from=0.5, unit="of the singular values' sum")
_ENTROPY_OF_STATE = Band(pass_from=0.3, unit="0 one direction, 1 all alike")
_SATURATION = Band(pass_to=0.3, warn_to=0.95, unit="gates below 0.05 or above 0.95")
_SIZE = Band(pass_to=65_504.0, warn_to=1e8, unit="largest number in a state")
_RATIO = Band(pass_from=0.3, pass_to=3.0, warn_from=0.1, warn_to=10.0,
              unit="L2 of RWKV's gradients over Mamba's")  # fmt: skip
_SHARE = Band(pass_from=0.05, pass_to=0.95, warn_from=0.005, warn_to=0.995,
              unit="RWKV's part of what both add")  # fmt: skip
_WORTH = Band(pass_from=0.005, unit="nats lost without it")
_AGAINST = Band(pass_to=1.2, warn_to=1.2, unit="our loss over theirs")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPoint:
    """One step of a training run, as its metrics tell."""

    step: int
    loss: float
    gradient_norm: float | None = None
    pathway_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationPoint:
    """A held-out loss of a run, in nats per token."""

    step: int
    loss: float


def g3(points: Sequence[TrainingPoint]) -> tuple[Verdict, ...]:
    """Training: the loss falls and stays down, the gradient norm is in its band."""
    steps = points[-1].step if points else 0
    if len(points) < 10:
        return (_not_yet("G3", "loss falls", str(_FALL),
                         f"Only {len(points)} points of training are known; train at least "
                         f"{FULL_RUN} steps."),)  # fmt: skip
    losses = [point.loss for point in points]
    if not all(map(math.isfinite, losses)):
        at = next(point.step for point in points if not math.isfinite(point.loss))
        return (Verdict(gate="G3", check="loss falls", grade="fail", value=math.nan,
                        thresholds=str(_FALL), sentence=f"The loss was not finite at step {at}: "
                        "the run diverged; lower the learning rate."),)  # fmt: skip
    tenth = max(1, len(losses) // 10)
    tenths = [_mean(losses[i : i + tenth]) for i in range(0, len(losses) - tenth + 1, tenth)]
    first, last, best = tenths[0], _mean(losses[-tenth:]), min(tenths)
    seen = f"in {steps:,} steps" + ("" if steps >= FULL_RUN else f" (fewer than {FULL_RUN:,})")
    falls, rises = _FALL.grade(last / first), _RISE.grade(last / best)
    found = [
        Verdict(gate="G3", check="loss falls", grade=falls, value=last / first,
                thresholds=str(_FALL), sentence=f"From {first:.3f} to {last:.3f} {seen}."
                + ("" if falls == "pass" else " It hardly learns: raise the learning rate or look "
                   "at the data.")),
        Verdict(gate="G3", check="loss stays down", grade=rises, value=last / best,
                thresholds=str(_RISE), sentence=f"Best {best:.3f}, last {last:.3f}."
                + ("" if rises == "pass" else " It rises again: lower the learning rate.")),
    ]  # fmt: skip
    return (*found, _gradient_norm(points, steps))


def _gradient_norm(points: Sequence[TrainingPoint], steps: int) -> Verdict:
    bands = f"{_GRADIENT_NORM}; judged from step {WARM_UP} on"
    norms = [point.gradient_norm for point in points
             if point.gradient_norm is not None and point.step >= WARM_UP]  # fmt: skip
    norms = norms[-max(1, len(norms) // 5) :]
    if steps < WARM_UP or not norms:
        return _not_yet(
            "G3",
            "gradient norm",
            bands,
            f"{steps} steps were run; the norm says something after {WARM_UP}.",
        )
    middle = sorted(norms)[len(norms) // 2]
    if not all(map(math.isfinite, norms)):
        middle = math.nan
    grade = _GRADIENT_NORM.grade(middle)
    said = "In the band where clipping at 1 rarely changes the direction."
    if not math.isfinite(middle) or middle > 1.5:
        said = "Large: lower the learning rate or clip harder."
    elif middle < 0.5:
        said = "Small: normal late in a run and with large batches, otherwise it no longer learns."
    return Verdict(gate="G3", check="gradient norm", grade=grade, value=middle, thresholds=bands,
                   sentence=said)  # fmt: skip


def g35(
    states: Sequence[StateReading], layers: Sequence[LayerReading], *, steps: int
) -> tuple[Verdict, ...]:
    """State health of each pathway, judged by its worst layer, and the gates' saturation."""
    if steps < WARM_UP:
        return (_not_yet("G3.5", "state cosine", str(_COSINE), _too_early(steps)),)
    found: list[Verdict] = []
    for pathway in ("rwkv", "mamba"):
        own = [one for one in states if one.pathway == pathway]
        if own:
            found += _state_checks(pathway, own)
    gated = [one for one in layers if one.gate_saturated is not None]
    if gated:
        worst = max(gated, key=lambda one: _or_worst(one.gate_saturated))
        share = _or_worst(worst.gate_saturated)
        grade = _SATURATION.grade(share)
        said = "The gates still choose."
        if grade != "pass":
            said = (
                f"The gates of layer {worst.layer} are stuck: one pathway is chosen whatever "
                "comes; try a per-channel gate (HGF) or a smaller multiplier for that pathway."
            )
        found.append(Verdict(gate="G3.5", check="gate saturation", grade=grade, value=share,
                             thresholds=str(_SATURATION), sentence=said))  # fmt: skip
    return tuple(found)


def _state_checks(pathway: str, own: Sequence[StateReading]) -> list[Verdict]:
    checks = [
        ("state cosine", _COSINE, [(one.cosine, one.layer) for one in own], True,
         "The state moves with what is read.",
         "The state of layer {layer} hardly changes any more: it is frozen or nearly so; its decay "
         "is too slow or its input too weak."),
        ("top-5 singular share", _TOP5, [(one.top5_share, one.layer) for one in own], False,
         "A few directions carry the state, as they should.",
         "In layer {layer} no direction stands out: the state looks like noise."),
        ("state entropy", _ENTROPY_OF_STATE, [(one.entropy, one.layer) for one in own], False,
         "The state uses many directions.",
         "In layer {layer} one direction holds nearly everything: it can remember one thing."),
        ("state size", _SIZE, [(one.largest, one.layer) for one in own], True,
         "Half precision would hold it.",
         "In layer {layer} it has left half precision's range: keep it in float32, or it grows "
         "without end."),
    ]  # fmt: skip
    found = []
    for check, band, values, is_high_bad, good, bad in checks:
        finite = [one for one in values if math.isfinite(one[0])]
        value, layer = (max if is_high_bad else min)(finite) if finite else values[0]
        if len(finite) < len(values):
            value, layer = next(one for one in values if not math.isfinite(one[0]))
        grade = band.grade(value)
        found.append(
            Verdict(gate="G3.5", check=f"{check}, {pathway}", grade=grade, value=value,
                    thresholds=str(band),
                    sentence=good if grade == "pass" else bad.format(layer=layer))
        )  # fmt: skip
    return found


def g36(ours: float, theirs: float, *, our_steps: int, their_steps: int) -> Verdict:
    """Against another version at equal steps: losses on the same text, in the same unit."""
    bands = f"pass {_AGAINST.pass_to} times their loss or less, else fail ({_AGAINST.unit})"
    if our_steps != their_steps:
        return _not_yet(
            "G3.6",
            "against the other version",
            bands,
            f"One has {our_steps:,} steps and the other {their_steps:,}, and no step "
            "is known of both: compare runs with metrics, or of equal length.",
        )
    ratio = ours / theirs if theirs else math.nan
    grade = _AGAINST.grade(ratio)
    said = f"{ours:.4f} against {theirs:.4f} after {our_steps:,} steps"
    return Verdict(gate="G3.6", check="against the other version", grade=grade, value=ratio,
                   thresholds=bands, sentence=said + ("." if grade == "pass" else
                   ": more than a fifth worse; find what changed before going on."))  # fmt: skip


def g4(
    gradients: Gradients,
    layers: Sequence[LayerReading],
    worth: Ablation,
    *,
    steps: int,
) -> tuple[Verdict, ...]:
    """Both pathways learn, and every part is used. See `diagnostics.GradientReading` for the
    ratio."""
    bands = f"{_RATIO}; judged from step {WARM_UP} on"
    if gradients.overall is None:
        return (
            _not_yet(
                "G4",
                "gradient ratio",
                bands,
                "This network has one pathway; there is nothing to compare.",
            ),
            *(_worths(worth) if steps >= WARM_UP else ()),
        )
    if steps < WARM_UP:
        return (_not_yet("G4", "gradient ratio", bands, _too_early(steps)),)
    overall = gradients.overall.ratio
    grade = _RATIO.grade(overall)
    found = [
        Verdict(gate="G4", check="gradient ratio", grade=grade, value=overall, thresholds=bands,
                sentence="Both pathways get a fair part of the gradient." if grade == "pass" else
                f"{'Mamba' if overall < 1 else 'RWKV'} gets most of the gradient: set its "
                "learning-rate multiplier to 0.5, or normalise both branches.")
    ]  # fmt: skip
    worst = max(gradients.layers, key=lambda one: _distance(one.ratio))
    layer_grade: Grade = "pass" if _RATIO.grade(worst.ratio) == "pass" else "warn"
    found.append(
        Verdict(gate="G4", check="gradient ratio, worst layer", grade=layer_grade,
                value=worst.ratio, thresholds=f"pass {_RATIO.pass_from:g} to {_RATIO.pass_to:g}; "
                "warn otherwise: one layer may specialise",
                sentence=f"Layer {worst.layer} is the most one-sided.")
    )  # fmt: skip
    shares = [one.rwkv_share for one in layers if one.rwkv_share is not None]
    if shares:
        share = _mean(shares)
        grade = _SHARE.grade(share)
        said = "Both pathways write into the residual stream."
        if grade != "pass":
            said = f"{'RWKV' if not share > 0.5 else 'Mamba'} adds next to nothing: it is dying."
        found.append(Verdict(gate="G4", check="contribution", grade=grade, value=share,
                             thresholds=str(_SHARE), sentence=said))  # fmt: skip
    return (*found, *_worths(worth))


def _worths(worth: Ablation) -> Iterator[Verdict]:
    """What the loss would be without each part."""
    for name, without in worth.without.items():
        lost = without - worth.loss
        grade = _WORTH.grade(lost) if math.isfinite(lost) else "fail"
        said = "It matters." if grade == "pass" else (
            f"The loss hardly changes when {name} is silent: the network does not use it."
        )  # fmt: skip
        yield Verdict(gate="G4", check=f"worth of {name}", grade=grade, value=lost,
                      thresholds=str(_WORTH), sentence=said)  # fmt: skip


def g5(loss: float, target: float) -> Verdict:
    """The scale step reaches its target loss."""
    reached = loss <= target
    return Verdict(gate="G5", check="target loss", grade="pass" if reached else "fail", value=loss,
                   thresholds=f"pass up to {target:g} nats per token",
                   sentence=f"{loss:.4f} of {target:g}." if reached else
                   f"{loss:.4f}, not {target:g}: do not scale up yet.")  # fmt: skip


def not_asked(gate: str, check: str, how: str) -> Verdict:
    """A gate that needs something the caller did not give."""
    return _not_yet(gate, check, "-", how)


def _not_yet(gate: str, check: str, thresholds: str, sentence: str) -> Verdict:
    return Verdict(gate=gate, check=check, grade="not yet", value=None, thresholds=thresholds,
                   sentence=sentence)  # fmt: skip


def _too_early(steps: int) -> str:
    return f"{steps} steps were run; gradients and states say something after {WARM_UP}."


def _distance(ratio: float) -> float:
    """How far from 1, either way."""
    return abs(math.log(ratio)) if ratio > 0 and math.isfinite(ratio) else math.inf


def _or_worst(value: float | None) -> float:
    return math.inf if value is None or math.isnan(value) else value


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
