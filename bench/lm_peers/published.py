"""Mamba-2 and RWKV of the package `transformers`, as they run on a CPU, sized like ours.

Its RWKV is RWKV-4; there is no RWKV-6. Without the CUDA packages both take the plain torch paths
that their authors ship, which is what a CPU user gets. Speaks `forward(tokens, state) -> logits,
state` with an empty state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

MAMBA2_CHUNK = 64
"""The fastest of 16, 32, 64, 128 and 256 (the default) at T = 256."""


class Published(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BT: Tensor, state: Any = None) -> tuple[Tensor, tuple[()]]:
        return self.model(input_ids=tokens_BT, use_cache=False).logits.float(), ()


def mamba2(target: int, *, vocab_size: int, d_model: int = 256) -> Published:
    """As many layers as come nearest to `target` parameters; a state of 32, as ours has."""
    from transformers import Mamba2Config, Mamba2ForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()

    def built(layers: int) -> nn.Module:
        config = Mamba2Config(
            vocab_size=vocab_size, hidden_size=d_model, num_hidden_layers=layers, state_size=32,
            expand=2, head_dim=64, num_heads=2 * d_model // 64, n_groups=1,
            chunk_size=MAMBA2_CHUNK, tie_word_embeddings=True,
            bos_token_id=0, eos_token_id=0, pad_token_id=0,
        )  # fmt: skip
        return Mamba2ForCausalLM(config)

    return Published(built(_nearest(target, built)))


def rwkv(target: int, *, vocab_size: int, d_model: int = 256, context: int = 2048) -> Published:
    """The nearest number of layers, then the feed-forward width (about four times) to fit."""
    from transformers import RwkvConfig, RwkvForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()

    def built(layers: int, width: int = 4 * d_model) -> nn.Module:
        config = RwkvConfig(
            vocab_size=vocab_size, context_length=context, hidden_size=d_model,
            num_hidden_layers=layers, intermediate_size=width, tie_word_embeddings=True,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        return RwkvForCausalLM(config)

    layers = _nearest(target, built)
    with torch.device("meta"):
        missing = target - count(built(layers))
    width = 4 * d_model + round(missing / (2 * d_model * layers) / 16) * 16
    return Published(built(layers, width))


def count(model: nn.Module) -> int:
    """Parameters, a shared one once."""
    return sum(weight.numel() for weight in model.parameters())


def _nearest(target: int, built: Callable[[int], nn.Module]) -> int:
    """Layers: every one adds the same."""
    with torch.device("meta"):
        one, two = count(built(1)), count(built(2))
    return max(1, round(1 + (target - one) / (two - one)))
