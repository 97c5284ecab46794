"""A nanoGPT-style transformer of any size, as fast and as well trained as this machine lets it be.

Pre-norm, scaled_dot_product_attention, MLP of four times the width, tied head. Speaks what the
trainer speaks (`forward(tokens, state) -> logits, state`); its state is a window of unrotated keys
and of values, so that it can also be scored with what came before. `Decoder` is its fast way to
generate: caches laid out once, written in place.

B batch, T time, S cached plus new positions, D width, H heads, K head width, V vocabulary.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twin.lm.config import HybridConfig
from twin.lm.kernels.registry import choose
from twin.lm.layers import ContextEmbedding

State = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    vocab_size: int
    d_model: int = 256
    n_layers: int = 5
    n_heads: int = 4
    mlp_width: int = 1024
    context: int = 256
    """Positions it attends to; with learned positions also the longest sequence."""
    positions: Literal["learned", "rope"] = "rope"
    activation: Literal["gelu", "relu2"] = "gelu"
    qk_norm: bool = False
    dropout: float = 0.0
    """Of what is added to the residual stream, and of the embedding, as in the hybrid. Attention
    weights are not dropped: on a CPU that would cost the fused attention."""


def num_parameters(config: TransformerConfig) -> int:
    """Without learned positions, as nanoGPT counts: they cost next to no work."""
    d, width = config.d_model, config.mlp_width
    per_layer = 4 * d * d + 2 * d * width + 2 * d
    return config.vocab_size * d + config.n_layers * per_layer + d


def sized(target: int, config: TransformerConfig) -> TransformerConfig:
    """The same width with the number of layers and the MLP (about four times the width) that come
    nearest to `target` parameters. Fails where that is not within 2 %."""
    d = config.d_model
    layers = max(round((target - config.vocab_size * d) / (12 * d * d)), 1)
    rest = (target - config.vocab_size * d - d) / layers - 4 * d * d - 2 * d
    width = max(round(rest / (2 * d) / 16) * 16, 16)
    found = replace(config, n_layers=layers, mlp_width=width)
    if abs(num_parameters(found) / target - 1) > 0.02:
        raise ValueError(f"No transformer {d} wide has {target:,} parameters within 2 %.")
    return found


def rotation(num_positions: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (S, K), computed in float32."""
    frequency = 10_000.0 ** (-torch.arange(0, head_dim, 2, device=device).float() / head_dim)
    angle = torch.outer(torch.arange(num_positions, device=device).float(), frequency)
    return torch.cat([angle.cos()] * 2, -1), torch.cat([-angle.sin(), angle.sin()], -1)


def rotate(x: Tensor, cos_SK: Tensor, sin_SK: Tensor) -> Tensor:
    return x * cos_SK + x.roll(x.shape[-1] // 2, -1) * sin_SK


@dataclass(frozen=True, slots=True)
class Kernels:
    """What the trainer's report asks a network for."""

    name: str = "scaled_dot_product_attention"


class Block(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        d = config.d_model
        self.config = config
        self.norm1 = nn.LayerNorm(d, bias=False)
        # Three matrices, so that Muon orthogonalises each alone, as it does in the hybrid.
        self.q = nn.Linear(d, d, bias=False)
        self.k = nn.Linear(d, d, bias=False)
        self.v = nn.Linear(d, d, bias=False)
        self.out_proj = nn.Linear(d, d, bias=False)
        self.norm2 = nn.LayerNorm(d, bias=False)
        self.up = nn.Linear(d, config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, d, bias=False)

    def qkv_weight(self) -> Tensor:
        """(3D, D): one product instead of three."""
        return torch.cat([self.q.weight, self.k.weight, self.v.weight])

    def heads(self, x_BTD: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, T, K)."""
        batch, time, d = x_BTD.shape
        heads = self.config.n_heads
        qkv = F.linear(self.norm1(x_BTD), weight).view(batch, time, 3, heads, d // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.config.qk_norm:
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        return q, k, v

    def mlp(self, x_BTD: Tensor) -> Tensor:
        hidden = self.up(self.norm2(x_BTD))
        if self.config.activation == "gelu":
            acted = F.gelu(hidden, approximate="tanh")
        else:
            acted = F.relu(hidden).square()
        return F.dropout(self.down(acted), self.config.dropout, self.training)

    def mix(self, y_BHTK: Tensor) -> Tensor:
        batch, heads, time, k = y_BHTK.shape
        y_BTD = y_BHTK.transpose(1, 2).reshape(batch, time, heads * k)
        return F.dropout(self.out_proj(y_BTD), self.config.dropout, self.training)

    def forward(
        self, x_BTD: Tensor, kv_B2HSK: Tensor | None, turn: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        q, k, v = self.heads(x_BTD, self.qkv_weight())
        time, window = q.shape[2], self.config.context
        mask = None
        if kv_B2HSK is not None and kv_B2HSK.shape[3]:
            past_k, past_v = kv_B2HSK.to(k.dtype).unbind(1)
            k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
        length = k.shape[2]
        num_kept = 0 if self.training else min(window, length)
        kept = torch.stack([k[:, :, length - num_kept :], v[:, :, length - num_kept :]], 1)
        if length > time or length > window:
            back = torch.arange(length - time, length, device=q.device)[:, None] - torch.arange(
                length, device=q.device
            )
            mask = (back >= 0) & (back < window)
        if turn is not None:
            cos, sin = turn
            q = rotate(q, cos[length - time :], sin[length - time :]).to(v.dtype)
            k = rotate(k, cos, sin).to(v.dtype)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        x_BTD = x_BTD + self.mix(y)
        x_BTD = x_BTD + self.mlp(x_BTD)
        return x_BTD, kept.detach()


class Transformer(nn.Module):
    """While training it starts every window afresh and returns an empty state, as nanoGPT does.
    `like` gives it the context embedding of a hybrid of that shape, to see what that alone adds."""

    def __init__(
        self,
        config: TransformerConfig,
        *,
        seed: int | None = None,
        like: HybridConfig | None = None,
    ) -> None:
        super().__init__()
        if seed is not None:
            torch.manual_seed(seed)
        self.config = config
        self.kernels = Kernels()
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.position = (
            nn.Embedding(config.context, config.d_model) if config.positions == "learned" else None
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                is_last = name.endswith(("out_proj.weight", "down.weight"))
                deep = (2 * config.n_layers) ** -0.5 if is_last else 1.0
                nn.init.normal_(weight, std=0.02 * deep)
        self.context = ContextEmbedding(like) if like is not None and like.num_recent else None
        self.products = choose("chunked")

    @property
    def head_weight(self) -> Tensor:
        return self.embed.weight

    def num_parameters(self) -> int:
        return sum(weight.numel() for weight in self.parameters())

    def init_state(self, batch_size: int) -> State:
        config = self.config
        head = config.d_model // config.n_heads
        shape = (batch_size, 2, config.n_heads, 0, head)
        state = [self.embed.weight.new_zeros(shape) for _ in self.blocks]
        if self.context is not None:
            # Tokens as numbers: exact in float32, whatever the weights are.
            state.append(torch.zeros(batch_size, self.context.kept))
        return tuple(state)

    def hidden(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        time = tokens_BT.shape[1]
        if self.training:
            state = None
        past = state[0].shape[3] if state else 0
        x = self.embed(tokens_BT)
        recents: list[Tensor] = []
        if self.context is not None:
            state = state or self.init_state(len(tokens_BT))
            added, recent = self.context(tokens_BT, state[-1], self.products)
            x = F.rms_norm(x, x.shape[-1:]) + added.to(x.dtype)  # as the hybrid does
            recents.append(recent)
        turn = None
        if self.position is None:
            head = self.config.d_model // self.config.n_heads
            turn = rotation(past + time, head, x.device)
        else:
            if past + time > self.config.context:
                raise ValueError(f"Learned positions end at {self.config.context}.")
            x = x + self.position.weight[past : past + time]
        x = F.dropout(x, self.config.dropout, self.training)
        kept = []
        for at, block in enumerate(self.blocks):
            x, kv = block(x, state[at] if state else None, turn)
            kept.append(kv)
        return self.norm(x), (*kept, *recents)

    def forward(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        x, state = self.hidden(tokens_BT, state)
        return F.linear(x, self.head_weight).float(), state

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        logits, state = self.forward(tokens_B[:, None], state)
        return logits[:, 0], state


class Decoder:
    """Greedy or sampled generation with a KV cache of `context` positions, eager.

    `kind` float32 or bfloat16, weights and cache alike. Rotated keys are cached: positions are
    absolute. Not for training; shares no memory with the model where the kind differs.
    """

    def __init__(
        self, model: Transformer, *, context: int, kind: torch.dtype, batch: int = 1
    ) -> None:
        config = model.config
        if model.context is not None:
            raise ValueError("A context embedding is not decoded here. Use `forward`.")
        if config.positions == "learned" and context > config.context:
            raise ValueError(f"Learned positions end at {config.context}.")
        self.context, self.length = context, 0
        model = copy.deepcopy(model).to(kind).eval().requires_grad_(False)
        self.blocks: list[Block] = list(model.blocks)  # type: ignore[arg-type]
        self.weights = [block.qkv_weight() for block in self.blocks]
        self.embed, self.norm = model.embed.weight, model.norm
        self.position = None if model.position is None else model.position.weight
        head = config.d_model // config.n_heads
        cos, sin = rotation(context, head, self.embed.device)
        self.turn = None if model.position is not None else (cos.to(kind), sin.to(kind))
        shape = (batch, config.n_heads, context, head)
        self.keys = [torch.zeros(shape, dtype=kind) for _ in self.blocks]
        self.values = [torch.zeros(shape, dtype=kind) for _ in self.blocks]

    @property
    def state_bytes(self) -> int:
        """Of the positions written so far, a stream."""
        one = self.keys[0]
        return 2 * len(self.keys) * one[0, :, : self.length].numel() * one.element_size()

    @torch.inference_mode()
    def step(self, tokens_BT: Tensor) -> Tensor:
        """Logits (B, V) after the last of the tokens (one, or a part of the prompt)."""
        time = tokens_BT.shape[1]
        start, end = self.length, self.length + time
        x = F.embedding(tokens_BT, self.embed)
        if self.position is not None:
            x = x + self.position[start:end]
        mask = torch.ones(time, end, dtype=torch.bool).tril(start) if time > 1 else None
        for at, block in enumerate(self.blocks):
            q, k, v = block.heads(x, self.weights[at])
            if self.turn is not None:
                cos, sin = self.turn[0][start:end], self.turn[1][start:end]
                q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            keys, values = self.keys[at], self.values[at]
            keys[:, :, start:end], values[:, :, start:end] = k, v
            y = F.scaled_dot_product_attention(
                q, keys[:, :, :end], values[:, :, :end], attn_mask=mask
            )
            x = x + block.mix(y)
            x = x + block.mlp(x)
        self.length = end
        return F.linear(self.norm(x[:, -1]), self.embed).float()
