"""flash-linear-attention's own layers in a hybrid of our shape, for GPUs.

Its RWKV-6 (with its data-dependent token shift) and its Mamba-2 layer side by side on the same
normalised input, the gated fusion, the feed-forward pair and the tied head as in the hybrid. Its
Mamba-2 calls the kernels of `mamba_ssm` where that is installed, else plain torch: `mamba_path`
says which.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twin.lm.config import HybridConfig


class Missing(RuntimeError):
    """The package is not there, or cannot run here."""


def _layers() -> Any:
    try:
        from fla.layers import mamba2, rwkv6
    except ImportError as error:
        raise Missing(
            f"flash-linear-attention is missing ({error}): `pip install flash-linear-attention`."
        ) from error
    return rwkv6.RWKV6Attention, mamba2


class Block(nn.Module):
    def __init__(self, config: HybridConfig, layer: int) -> None:
        super().__init__()
        attention, mamba2 = _layers()
        d = config.d_model
        with warnings.catch_warnings():  # "a potentially buggy implementation of RWKV"
            warnings.simplefilter("ignore")
            self.rwkv = attention(
                mode="chunk", hidden_size=d, expand_k=1.0, expand_v=1.0, num_heads=config.n_heads,
                gate_low_rank_dim=config.decay_rank, layer_idx=layer,
            )  # fmt: skip
            self.mamba = mamba2.Mamba2(
                num_heads=config.mamba_heads, head_dim=config.mamba_head_dim, hidden_size=d,
                state_size=config.d_state, expand=config.expand, conv_kernel=config.conv_width,
                use_conv_bias=True, use_bias=False, chunk_size=64, layer_idx=layer,
            )  # fmt: skip
        self.mamba_path = "mamba_ssm" if mamba2.is_fast_path_available else "torch"
        self.norm1, self.norm2 = nn.RMSNorm(d), nn.RMSNorm(d)
        self.gate = nn.Linear(2 * d, 1)
        self.up = nn.Linear(d, config.d_ffn, bias=False)
        self.down = nn.Linear(config.d_ffn, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        r, m = self.rwkv(h)[0], self.mamba(h)
        m = m[0] if isinstance(m, tuple) else m
        share = torch.sigmoid(self.gate(torch.cat([r, m], -1)))
        x = x + share * r + (1 - share) * m
        return x + self.down(F.relu(self.up(self.norm2(x))).square())


class FlaHybrid(nn.Module):
    """`forward(tokens, state) -> logits, ()`. Raises Missing without the package."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(config, n) for n in range(config.n_layers))
        self.norm = nn.RMSNorm(config.d_model)

    @property
    def mamba_path(self) -> str:
        return str(self.blocks[0].mamba_path)

    def forward(self, tokens_BT: Tensor, state: Any = None) -> tuple[Tensor, tuple[()]]:
        x = self.embed(tokens_BT)
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embed.weight).float(), ()
