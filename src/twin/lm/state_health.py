"""Are the recurrent states alive? Movement, rank and size of what each pathway remembers.

Owns measuring states; `gates` owns what is good. A frozen state remembers nothing new; a state of
one direction holds one thing; a state that grows without end leaves the range of its numbers. The
norm of a state says none of that (under StateNorm it is constant), which is why it is not here.

Consecutive states are taken `every` tokens apart (64: the window of the published runs), because
from one token to the next even a healthy slow state moves by less than a hundredth.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from twin.lm import state as states
from twin.lm.model import HybridLM

EVERY = 64
TOP = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class StateReading:
    """One pathway's state in one layer; means over heads, streams and moments."""

    layer: int
    pathway: Literal["rwkv", "mamba"]
    cosine: float
    """Between consecutive states of the same head; NaN with fewer than two moments."""
    top5_share: float
    """Of the sum of singular values, held by the five largest."""
    effective_rank: float
    """exp of the entropy of the singular values as shares (Roy and Vetterli 2007)."""
    max_rank: int
    largest: float
    """Greatest absolute number in any state; beyond 65,504 half precision would overflow."""
    num_not_finite: int

    @property
    def entropy(self) -> float:
        """Of the singular values' shares, 0 one direction, 1 all alike."""
        if self.max_rank < 2:
            return math.nan
        return math.log(self.effective_rank) / math.log(self.max_rank)


@torch.no_grad()
def state_readings(
    model: HybridLM, tokens_BT: Tensor, *, every: int = EVERY
) -> tuple[StateReading, ...]:
    """Reads the tokens `every` at a time with the state carried, and looks at each state; the
    first, still short of history, is left out where there are more than two."""
    was_training = model.training
    model.eval()
    try:
        moments, state = [], model.init_state(tokens_BT.shape[0])
        for start in range(0, tokens_BT.shape[1] - every + 1, every):
            _, state = model.hidden(tokens_BT[:, start : start + every], state)
            moments.append(state)
    finally:
        model.train(was_training)
    if len(moments) > 2:
        moments = moments[1:]
    pathways: dict[str, Literal["rwkv", "mamba"]] = {"wkv": "rwkv", "ssm": "mamba"}
    return tuple(
        _reading(part.layer, pathways[part.name], [moment[place] for moment in moments])
        for place, part in enumerate(states.layout(model.config))
        if part.name in pathways and moments
    )


def _reading(layer: int, pathway: Literal["rwkv", "mamba"], moments: list[Tensor]) -> StateReading:
    """From S states of (B, H, rows, columns)."""
    seen_SBHKV = torch.stack(moments).double().cpu()
    num_bad = int((~torch.isfinite(seen_SBHKV)).sum())
    max_rank = min(seen_SBHKV.shape[-2:])
    if num_bad:
        return StateReading(
            layer=layer, pathway=pathway, cosine=math.nan, top5_share=math.nan,
            effective_rank=math.nan, max_rank=max_rank, largest=math.inf, num_not_finite=num_bad,
        )  # fmt: skip
    flat_SBHN = seen_SBHKV.flatten(-2)
    cosine = math.nan
    if len(moments) > 1:
        # A state that stays zero gives 0 / 0: it does not move, so its cosine counts as 1.
        dots = (flat_SBHN[1:] * flat_SBHN[:-1]).sum(-1)
        scale = flat_SBHN[1:].norm(dim=-1) * flat_SBHN[:-1].norm(dim=-1)
        cosine = float(torch.where(scale > 0, dots / scale.clamp_min(1e-300), 1.0).mean())
    values = torch.linalg.svdvals(seen_SBHKV)
    total = values.sum(-1, keepdim=True)
    shares = torch.where(total > 0, values / total.clamp_min(1e-300), 1.0 / max_rank)
    entropy = -torch.special.xlogy(shares, shares).sum(-1)
    return StateReading(
        layer=layer,
        pathway=pathway,
        cosine=cosine,
        top5_share=float(shares[..., :TOP].sum(-1).mean()),
        effective_rank=float(entropy.exp().mean()),
        max_rank=max_rank,
        largest=float(seen_SBHKV.abs().max()),
        num_not_finite=0,
    )
