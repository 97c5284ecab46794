"""How the outputs of the two pathways become one: every fusion of the comparison, behind one call.

r is the RWKV branch, m the Mamba branch, both (B, T, D). Owns the fusions' parameters and where
they start.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twin.lm.config import MINGRU_GATES, HybridConfig
from twin.lm.kernels.composed import unit_norm, wide
from twin.lm.kernels.registry import Kernels

PROJECTED_STD = 0.02


class Fuse(nn.Module):
    """The base: a fusion returns the sum, its state, and its gate where it has one."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.is_normed = config.branch_norm

    def forward(
        self, r: Tensor, m: Tensor, state: Tensor | None, kernels: Kernels
    ) -> tuple[Tensor, Tensor | None]:
        """The fused branches and the fusion's own new state."""
        return self.mixed(*self.normed(r, m), state, kernels)

    def normed(self, r: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """The branches as they are fused, with `branch_norm` each RMS-normalised."""
        return (unit_norm(r), unit_norm(m)) if self.is_normed else (r, m)

    def mixed(
        self, r: Tensor, m: Tensor, state: Tensor | None, kernels: Kernels
    ) -> tuple[Tensor, Tensor | None]:
        """`forward` of branches that are normalised where they should be."""
        raise NotImplementedError

    def gate(self, r: Tensor, m: Tensor) -> Tensor | None:
        """RWKV's share per position (and channel), for diagnostics; None where there is none."""
        return None


class WeightedSum(Fuse):
    """WS: w r + (1 - w) m, one scalar."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config)
        self.share = nn.Parameter(torch.tensor(config.gate_init))

    def mixed(
        self, r: Tensor, m: Tensor, state: Tensor | None, kernels: Kernels
    ) -> tuple[Tensor, Tensor | None]:
        return m + self.share.to(r.dtype) * (r - m), state


class Residual(Fuse):
    """RF: r + a m, one scalar."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.tensor((1 - config.gate_init) / config.gate_init))

    def mixed(
        self, r: Tensor, m: Tensor, state: Tensor | None, kernels: Kernels
    ) -> tuple[Tensor, Tensor | None]:
        return r + self.weight.to(r.dtype) * m, state


class ChannelGains(Fuse):
    """HY: g_r norm(r) + g_m norm(m), gains per channel, 0.7 and 0.3 at the start."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config)
        self.is_normed = True
        self.for_rwkv = nn.Parameter(torch.full((config.d_model,), 0.7))
        self.for_mamba = nn.Parameter(torch.full((config.d_model,), 0.3))

    def mixed(
        self, r: Tensor, m: Tensor, state: Tensor | None, kernels: Kernels
    ) -> tuple[Tensor, Tensor | None]:
        return self.for_rwkv.to(r.dtype) * r + self.for_mamba.to(m.dtype) * m, state


class Gated(Fuse):
    """GF: g r + (1 - g) m with one gate per position, W = 0 and the bias at the wanted share."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.zeros(2 * config.d_model))
        self.bias = nn.Parameter(torch.full((1,), logit(config.gate_init)))

    def forward(
        self, r: Tensor, m: Tensor, state: Tensor | None, kernels: Kernels
    ) -> tuple[Tensor, Tensor | None]:
        return kernels.gated_sum(r, m, self.weight, self.bias, normed=self.is_normed), state

    def gate(self, r: Tensor, m: Tensor) -> Tensor:
        both = torch.cat([r, m], dim=-1).to(self.weight.dtype)
        return torch.sigmoid((both @ self.weight)[..., None] + self.bias)


class ChannelGated(Fuse):
    """HGF: the same with one gate per position and channel."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config)
        self.proj = nn.Linear(2 * config.d_model, config.d_model)
        nn.init.zeros_(self.proj.weight)
        nn.init.constant_(self.proj.bias, logit(config.gate_init))

    def mixed(
        self, r: Tensor, m: Tensor, state: Tensor | None, kernels: Kernels
    ) -> tuple[Tensor, Tensor | None]:
        score = kernels.linear(torch.cat([r, m], dim=-1), self.proj.weight)
        return m + torch.sigmoid(score + self.proj.bias.to(score.dtype)) * (r - m), state

    def gate(self, r: Tensor, m: Tensor) -> Tensor:
        return torch.sigmoid(self.proj(torch.cat([r, m], dim=-1)))


class Projected(Fuse):
    """CP: W [r; m], starting near the weighted mean of both."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config)
        width, share = config.d_model, config.gate_init
        self.proj = nn.Linear(2 * width, width, bias=False)
        mean = torch.cat([share * torch.eye(width), (1 - share) * torch.eye(width)], dim=1)
        with torch.no_grad():
            self.proj.weight.copy_(mean + PROJECTED_STD * torch.randn_like(mean))

    def mixed(
        self, r: Tensor, m: Tensor, state: Tensor | None, kernels: Kernels
    ) -> tuple[Tensor, Tensor | None]:
        return kernels.linear(torch.cat([r, m], dim=-1), self.proj.weight), state


class MinGru(Fuse):
    """MINGRU: an arbiter with a memory of its own (arXiv 2410.01201, minGRU). Each of its gates
    follows s_t = (1 - z_t) s_{t-1} + z_t c_t, in parallel over time, and serves the same number of
    neighbouring channels."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config)
        self.update = nn.Linear(2 * config.d_model, MINGRU_GATES)
        self.candidate = nn.Linear(2 * config.d_model, MINGRU_GATES)
        for layer in (self.update, self.candidate):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.candidate.bias, logit(config.gate_init))
        self.start = logit(config.gate_init)

    def mixed(
        self, r: Tensor, m: Tensor, state: Tensor | None, kernels: Kernels
    ) -> tuple[Tensor, Tensor | None]:
        assert state is not None
        both = torch.cat([r, m], dim=-1)
        update, candidate = wide(self.update(both)), wide(self.candidate(both))
        # The scan is Mamba's with one channel a head: decay 1 - z, input z c. The state starts at
        # zero, so it holds the distance from the wanted share.
        ones = torch.ones_like(update[..., :1])
        scanned, carried = kernels.ssd(
            (torch.sigmoid(update) * (candidate - self.start))[..., None],
            F.logsigmoid(-update), ones, ones, state[:, :, None, None],
        )  # fmt: skip
        gate = torch.sigmoid(scanned[..., 0] + self.start).to(r.dtype)
        gate = gate.repeat_interleave(r.shape[-1] // MINGRU_GATES, dim=-1)
        return m + gate * (r - m), carried[:, :, 0, 0]


FUSIONS: dict[str, type[Fuse]] = {
    "WS": WeightedSum,
    "RF": Residual,
    "HY": ChannelGains,
    "GF": Gated,
    "HGF": ChannelGated,
    "CP": Projected,
    "MINGRU": MinGru,
}


def logit(share: float) -> float:
    """The inverse of the sigmoid."""
    return math.log(share / (1 - share))
