"""Which parameter is learnt how: Muon for hidden matrices, AdamW for everything else.

Owns the sorting of parameters into groups (by name and shape), the blocks of fused projections,
learning rates per pathway, the gradient's norms, clipping, and the running average of the weights.
The update of Muon itself is in `muon`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from twin.lm import shards
from twin.lm.config import HybridConfig
from twin.lm.muon import JORDAN, POLAR, Coefficients, Muon

Blocks = Literal["whole", "parts", "heads"]
"""How a fused projection is orthogonalised: as one matrix, each of its matrices alone, or each head
of them alone."""
Pathway = Literal["rwkv", "mamba", "other"]
PATHWAYS: Final[tuple[Pathway, ...]] = ("rwkv", "mamba", "other")
_SMALLEST_MATRIX: Final = 16
"""Rows and columns from which a 2-D parameter is a matrix and not a bundle of vectors (the bonus
has one row per head, a convolution a column per tap)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What the optimizer is told once; the schedule multiplies both learning rates."""

    optimizer: Literal["muon", "adamw"] = "muon"
    matrix_lr: float = 0.02
    lr: float = 3e-3
    weight_decay: float = 0.05
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.99)
    blocks: Blocks = "parts"
    newton_steps: int = 5
    rwkv_lr: float = 1.0
    mamba_lr: float = 1.0


def pathway_of(name: str) -> Pathway:
    """The pathway that a parameter belongs to."""
    if ".rwkv." in name:
        return "rwkv"
    return "mamba" if ".mamba." in name else "other"


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon takes it: a 2-D projection inside the network, and no bundle of vectors."""
    inside = "blocks." in name or "context.projection." in name
    return inside and parameter.ndim == 2 and min(parameter.shape) >= _SMALLEST_MATRIX


def row_blocks(name: str, num_rows: int, config: HybridConfig | None, blocks: Blocks) -> list[int]:
    """Rows of each block of a matrix that is orthogonalised alone, from the top."""
    if config is None or blocks == "whole":
        return [num_rows]
    per_head = blocks == "heads"
    found = [num_rows]
    if name.endswith("rwkv.in_proj.weight"):
        whole, head = config.d_model, config.head_dim
        part = [head] * (whole // head) if per_head else [whole]
        found = [*(part * 4), config.decay_rank]  # r, k, v, g, and the decay's low rank
    elif name.endswith("mamba.in_proj.weight"):
        whole, head = config.d_inner, config.mamba_head_dim
        part = [head] * (whole // head) if per_head else [whole]
        found = [*(part * 2), config.d_state, config.d_state, config.mamba_heads]  # z, x, B, C, dt
    elif name.endswith("attention.in_proj.weight"):
        whole, head = config.d_model, config.d_model // config.attention_heads
        found = ([head] * config.attention_heads if per_head else [whole]) * 3  # q, k, v
    return found if sum(found) == num_rows else [num_rows]


class Optimizers:
    """Muon and AdamW as one."""

    def __init__(self, model: nn.Module, rates: Rates, *, newton_dtype: torch.dtype) -> None:
        config = getattr(model, "config", None)
        config = config if isinstance(config, HybridConfig) else None
        self._scale = {"rwkv": rates.rwkv_lr, "mamba": rates.mamba_lr, "other": 1.0}
        matrices: dict[Pathway, list[tuple[str, Tensor]]] = {}
        others: dict[tuple[Pathway, bool], list[Tensor]] = {}
        for name, parameter in model.named_parameters():
            pathway, hidden = pathway_of(name), is_hidden_matrix(name, parameter)
            if hidden and rates.optimizer == "muon":
                matrices.setdefault(pathway, []).append((name, parameter))
            else:
                others.setdefault((pathway, hidden), []).append(parameter)
        self.all: list[torch.optim.Optimizer] = []
        if matrices:
            self.all.append(_muon(matrices, self._scale, config, rates, newton_dtype))
        groups = [
            {
                "params": parameters,
                "lr": rates.lr * self._scale[pathway],
                # A norm or a bias that decays to zero is no longer what it was made for.
                "weight_decay": rates.weight_decay if hidden else 0.0,
            }
            for (pathway, hidden), parameters in others.items()
        ]
        self.all.append(torch.optim.AdamW(groups, lr=rates.lr, betas=rates.betas, fused=True))
        self._highest = [[group["lr"] for group in one.param_groups] for one in self.all]

    def step(self, multiplier: float) -> None:
        """One update, at `multiplier` times the highest learning rates; clears the gradients."""
        for one, highest in zip(self.all, self._highest, strict=True):
            for group, lr in zip(one.param_groups, highest, strict=True):
                group["lr"] = lr * multiplier
            one.step()
        self.clear()

    def clear(self) -> None:
        for one in self.all:
            one.zero_grad(set_to_none=True)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Everything that has to be kept for an exact continuation, by a stable name."""
        for number, one in enumerate(self.all):
            for place, parameter in enumerate(_parameters(one)):
                for name, value in sorted(one.state[parameter].items()):
                    yield f"{number}.{place}.{name}", value

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """What `tensors` gave."""
        parameters = [list(_parameters(one)) for one in self.all]
        for full_name, value in tensors.items():
            number, place, name = full_name.split(".")
            parameter = parameters[int(number)][int(place)]
            if value.shape == parameter.shape:
                value = shards.shared_as(parameter, value)
            self.all[int(number)].state[parameter][name] = value.clone()


def _muon(
    matrices: dict[Pathway, list[tuple[str, Tensor]]],
    scale: dict[str, float],
    config: HybridConfig | None,
    rates: Rates,
    dtype: torch.dtype,
) -> Muon:
    groups: list[dict[str, Any]] = [
        {
            "params": [parameter for _, parameter in found],
            "blocks": [row_blocks(n, p.shape[0], config, rates.blocks) for n, p in found],
            "lr": rates.matrix_lr * scale[pathway],
        }
        for pathway, found in matrices.items()
    ]
    return Muon(
        groups,
        lr=rates.matrix_lr,
        momentum=rates.momentum,
        weight_decay=rates.weight_decay,
        coefficients=newton_coefficients(rates.newton_steps),
        dtype=dtype,
    )


def newton_coefficients(steps: int) -> Coefficients:
    """Jordan's five, or as many of Polar Express's as asked for below five."""
    return JORDAN if steps >= len(POLAR) else POLAR[:steps]


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientNorms:
    """Euclidean norms of one step's gradient."""

    total: float
    rwkv: float
    mamba: float

    @property
    def ratio(self) -> float | None:
        """RWKV over Mamba; None where the network has not both."""
        return self.rwkv / self.mamba if self.rwkv > 0 and self.mamba > 0 else None


class Gradients:
    """Measures and clips the gradient of a model in one pass over it."""

    def __init__(
        self, model: nn.Module, total: Callable[[Tensor], Tensor] = lambda parts: parts
    ) -> None:
        """`total` adds up the squares of all processes where they share the weights."""
        named = list(model.named_parameters())
        self._parameters = [parameter for _, parameter in named]
        self._total = total
        self._pathway = torch.tensor([PATHWAYS.index(pathway_of(name)) for name, _ in named])

    def measure_and_clip(self, limit: float) -> GradientNorms:
        """The norms before clipping; a limit of 0 clips nothing. Not finite: nothing is scaled."""
        gradients = [
            shards.own(p.grad) if p.grad is not None else shards.own(p).new_zeros(1)
            for p in self._parameters
        ]
        squares = torch.stack(torch._foreach_norm(gradients)).square().double().cpu()
        parts = torch.zeros(len(PATHWAYS), dtype=torch.float64)
        parts = self._total(parts.index_add_(0, self._pathway, squares))
        rwkv, mamba, _ = parts.sqrt().tolist()
        total = float(parts.sum().sqrt())
        if 0.0 < limit < total < float("inf"):
            torch._foreach_mul_(gradients, limit / total)
        return GradientNorms(total=total, rwkv=rwkv, mamba=mamba)


class Average:
    """A running average of the weights over the last `width` of the run, however long it is.

    The rate 1 / (width * step) makes the window grow with the run (Karras et al. 2023, arXiv
    2312.02696, power functions), so that no half-life has to be guessed beforehand.
    """

    def __init__(self, model: nn.Module, width: float) -> None:
        self.width = width
        self._parameters = list(model.parameters())
        self.weights = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After step number `step`, counted from 1."""
        rate = min(1.0, 1.0 / (self.width * step))
        torch._foreach_lerp_(self.weights, [p.data for p in self._parameters], rate)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the model's weights and the average; twice is as before."""
        for kept, parameter in zip(self.weights, self._parameters, strict=True):
            held = parameter.data.clone()
            parameter.data.copy_(kept)
            kept.copy_(held)

    @torch.no_grad()
    def restore(self, weights: Sequence[Tensor]) -> None:
        """Whole weights."""
        for kept, found in zip(self.weights, weights, strict=True):
            kept.copy_(shards.shared_as(kept, found))


def trainable(parameters: Iterable[Tensor]) -> int:
    """How many numbers are learnt."""
    return sum(parameter.numel() for parameter in parameters)
