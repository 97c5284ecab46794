"""Does each part matter, and is the signal healthy? Figures from a model and some text.

Owns measuring; `gates` owns what is good. Nothing here changes the model: modes, taps, ablations
and gradients are put back. Tokens are (B, T+1): T inputs and the T tokens that follow them; losses
are nats per token, in evaluation mode.

Shapes: B streams, T time, D width. r and m are the outputs of the RWKV and the Mamba branch.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twin.lm.fusion import ChannelGains, Projected, Residual, WeightedSum
from twin.lm.layers import ContextEmbedding
from twin.lm.model import Block, HybridLM
from twin.lm.state import State

SATURATED = 0.05
"""A gate closer than this to 0 or 1 no longer chooses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """What the loss is, and what it would be without one of the network's parts."""

    loss: float
    without: Mapping[str, float]
    """By the part that is silent (see `parts`), in every block that has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReading:
    """What one block adds to the residual stream."""

    layer: int
    rwkv_norm: float | None
    """Root mean square of what RWKV adds, after its gate or gain; None in a pure network."""
    mamba_norm: float | None
    gate_mean: float | None
    """Mean share of RWKV; None where the fusion has no gate."""
    gate_saturated: float | None
    """Share of the gates below 0.05 or above 0.95."""
    variance_in: float
    variance_out: float

    @property
    def amplification(self) -> float:
        """By how much this block multiplies the variance of the residual stream."""
        return self.variance_out / self.variance_in if self.variance_in else math.inf

    @property
    def rwkv_share(self) -> float | None:
        if self.rwkv_norm is None or self.mamba_norm is None:
            return None
        total = self.rwkv_norm + self.mamba_norm
        return self.rwkv_norm / total if total else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientReading:
    """The gradients of one block's pathways, or of all blocks together (`layer` None).

    `ratio` is the L2 norm of the loss's gradient over all parameters of the RWKV branch divided by
    that of the Mamba branch. `coupling` is the cosine between the two gradients that come back to
    the block's shared input, one through each branch: 1 they want the same of it, -1 they fight.
    """

    layer: int | None
    rwkv: float
    mamba: float
    coupling: float | None

    @property
    def ratio(self) -> float:
        return self.rwkv / self.mamba if self.mamba else (math.inf if self.rwkv else math.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """One backward pass."""

    loss: float
    norm: float
    """L2 over all parameters, before any clipping."""
    layers: tuple[GradientReading, ...]
    """Empty for a pure network."""
    overall: GradientReading | None


def mean_loss(model: HybridLM, tokens_BT: Tensor, state: State | None = None) -> float:
    """Nats per token. A model that cannot be computed gives NaN, never an exception."""
    with torch.no_grad(), _evaluating(model):
        return float(_losses_BT(model, tokens_BT, state)[0].mean())


def parts(model: HybridLM) -> tuple[str, ...]:
    """What can be silent and leave a network: each of two pathways, the attention anchors, and what
    the context embedding adds of n-grams and by induction."""
    found = ["rwkv", "mamba"] if model.config.pathways == "both" else []
    if any(block.attention is not None for block in _blocks(model)):
        found.append("attention")
    if model.context is not None:
        found += sorted(set(model.context.kinds), reverse=True)
    return tuple(found)


def ablation(model: HybridLM, tokens_BT: Tensor) -> Ablation:
    """How much worse it gets without each part: what training has made it depend on."""
    without = {}
    for part in parts(model):
        with _ablated(model, part):
            without[part] = mean_loss(model, tokens_BT)
    return Ablation(loss=mean_loss(model, tokens_BT), without=without)


def layer_readings(model: HybridLM, tokens_BT: Tensor) -> tuple[LayerReading, ...]:
    """Contribution, gate and variance of every block on one pass over the tokens."""
    with torch.no_grad(), _evaluating(model), _tapped(model) as taps:
        model.hidden(tokens_BT[:, :-1])
        return tuple(
            _layer_reading(number, block, tap)
            for number, (block, tap) in enumerate(zip(_blocks(model), taps, strict=True))
        )


def contributions(block: Block, tap: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What each branch adds to the block's output (B, T, D): the two sum to it, but for `MINGRU`,
    whose gate has a memory; there the bare outputs stand."""
    r, m = tap["r"], tap["m"]
    match block.fuse:
        case WeightedSum() as fuse:
            return fuse.share * r, (1 - fuse.share) * m
        case Residual() as fuse:
            return r, fuse.weight * m
        case ChannelGains() as fuse:
            return fuse.for_rwkv * r, fuse.for_mamba * m
        case Projected() as fuse:
            for_r, for_m = fuse.proj.weight.chunk(2, dim=1)
            return F.linear(r, for_r), F.linear(m, for_m)
    if "gate" in tap:
        return tap["gate"] * r, (1 - tap["gate"]) * m
    return r, m


def gradients(model: HybridLM, tokens_BT: Tensor) -> Gradients:
    """One backward pass without dropout. Gradients that stood in the parameters are kept."""
    blocks = _blocks(model) if model.config.pathways == "both" else []
    parameters = list(model.parameters())
    kept = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        with torch.enable_grad(), _evaluating(model), _inputs_apart(blocks) as inputs:
            loss = _losses_BT(model, tokens_BT, None)[0].mean()
            loss.backward()  # type: ignore[no-untyped-call]
        layers = tuple(
            GradientReading(
                layer=number,
                rwkv=_norm(block.rwkv),
                mamba=_norm(block.mamba),
                coupling=_cosine(*(one.grad for one in inputs[number])),
            )
            for number, block in enumerate(blocks)
        )
        overall = None
        if layers:
            couplings = [one.coupling for one in layers if one.coupling is not None]
            overall = GradientReading(
                layer=None,
                rwkv=math.hypot(*(one.rwkv for one in layers)),
                mamba=math.hypot(*(one.mamba for one in layers)),
                coupling=sum(couplings) / len(couplings) if couplings else None,
            )
        return Gradients(
            loss=float(loss.detach()), norm=_norm(model), layers=layers, overall=overall
        )
    finally:
        for parameter, grad in zip(parameters, kept, strict=True):
            parameter.grad = grad


def loss_by_position(
    model: HybridLM, tokens_BT: Tensor, *, window: int = 1024
) -> tuple[tuple[float, float], ...]:
    """(mean position, mean loss) in bins that double: 1, 2, 3-4, 5-8 ... from an empty state.

    A model that uses what lies far back goes on falling; where it is flat, more context is of no
    use to it. Read `window` tokens at a time with the state carried.
    """
    losses = carried_losses(model, tokens_BT, window)
    edges, length = [0, 1], len(losses)
    while edges[-1] < length:
        edges.append(min(2 * edges[-1], length))
    return tuple(
        ((first + 1 + last) / 2, sum(losses[first:last]) / (last - first))
        for first, last in pairwise(edges)
    )


def carried_losses(model: HybridLM, tokens_BT: Tensor, window: int) -> list[float]:
    """Loss at each position from an empty state, mean over the streams; read in windows."""
    state, found = model.init_state(tokens_BT.shape[0]), []
    with torch.no_grad(), _evaluating(model):
        for start in range(0, tokens_BT.shape[1] - 1, window):
            part = tokens_BT[:, start : start + window + 1]
            losses_BT, state = _losses_BT(model, part, state)
            found += losses_BT.mean(dim=0).tolist()
    return found


def context_gain(
    model: HybridLM,
    tokens_BT: Tensor,
    *,
    contexts: Sequence[int] = (16, 64, 256, 1024),
    num_targets: int = 64,
) -> tuple[tuple[int, float], ...]:
    """(tokens of context, loss) on the *same* last `num_targets` tokens of each stream, so that
    only the context differs; contexts that the text is too short for are left out."""
    length = tokens_BT.shape[1]
    found = []
    for context in contexts:
        if context + num_targets > length:
            continue
        with torch.no_grad(), _evaluating(model):
            seen_BT = tokens_BT[:, length - context - num_targets :]
            losses_BT, _ = _losses_BT(model, seen_BT, None)
        found.append((context, float(losses_BT[:, -num_targets:].mean())))
    return tuple(found)


def _losses_BT(model: HybridLM, tokens_BT: Tensor, state: State | None) -> tuple[Tensor, State]:
    logits_BTX, new = model(tokens_BT[:, :-1], state)
    losses = F.cross_entropy(
        logits_BTX.flatten(0, 1), tokens_BT[:, 1:].flatten().long(), reduction="none"
    )
    return losses.view(logits_BTX.shape[:2]), new


def _layer_reading(number: int, block: Block, tap: dict[str, Tensor]) -> LayerReading:
    rwkv_norm = mamba_norm = gate_mean = saturated = None
    if "r" in tap and "m" in tap:
        added = contributions(block, tap)
        rwkv_norm, mamba_norm = (float(x.float().square().mean().sqrt()) for x in added)
    if "gate" in tap:
        gate = tap["gate"].float()
        gate_mean = float(gate.mean())
        saturated = float(((gate < SATURATED) | (gate > 1 - SATURATED)).float().mean())
    return LayerReading(
        layer=number,
        rwkv_norm=rwkv_norm,
        mamba_norm=mamba_norm,
        gate_mean=gate_mean,
        gate_saturated=saturated,
        variance_in=float(tap["x_in"].float().var(dim=-1).mean()),
        variance_out=float(tap["x_out"].float().var(dim=-1).mean()),
    )


def _blocks(model: HybridLM) -> list[Block]:
    return [block for block in model.blocks if isinstance(block, Block)]


def _norm(module: nn.Module | None) -> float:
    """L2 norm of all gradients in float64; 0 where there is none."""
    parts = [] if module is None else [p.grad for p in module.parameters() if p.grad is not None]
    return math.sqrt(sum(float(part.double().square().sum()) for part in parts))


def _cosine(left: Tensor | None, right: Tensor | None) -> float | None:
    if left is None or right is None:
        return None
    left, right = left.flatten().double(), right.flatten().double()
    scale = float(left.norm() * right.norm())
    return float(left @ right) / scale if scale else None


@contextmanager
def _evaluating(model: HybridLM) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def _ablated(model: HybridLM, part: str) -> Iterator[None]:
    places: list[Block | ContextEmbedding] = [*_blocks(model)]
    if model.context is not None:
        places.append(model.context)
    before = [place.ablate for place in places]
    try:
        for place in places:
            place.ablate = part
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.ablate = value


@contextmanager
def _tapped(model: HybridLM) -> Iterator[list[dict[str, Tensor]]]:
    blocks = _blocks(model)
    before = [block.tap for block in blocks]
    taps: list[dict[str, Tensor]] = [{} for _ in blocks]
    try:
        for block, tap in zip(blocks, taps, strict=True):
            block.tap = tap
        yield taps
    finally:
        for block, value in zip(blocks, before, strict=True):
            block.tap = value


@contextmanager
def _inputs_apart(blocks: Sequence[Block]) -> Iterator[list[list[Tensor]]]:
    """Gives each branch of a block its own view of the shared input, whose gradient is kept."""
    found: list[list[Tensor]] = [[] for _ in blocks]
    handles = []

    def watch(module: nn.Module, place: list[Tensor]) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            own = inputs[0].view_as(inputs[0])
            own.retain_grad()
            place.append(own)
            return (own, *inputs[1:])

        handles.append(module.register_forward_pre_hook(hook))

    try:
        for block, place in zip(blocks, found, strict=True):
            assert block.rwkv is not None
            assert block.mamba is not None
            watch(block.rwkv, place)
            watch(block.mamba, place)
        yield found
    finally:
        for handle in handles:
            handle.remove()
