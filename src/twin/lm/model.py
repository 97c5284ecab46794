"""The network: embeddings, blocks of two parallel recurrent pathways and a feed-forward pair, head.

    h = norm(x);  x += fuse(rwkv6(h), mamba2(h));  [x += attention(norm(x))];  x += ffn(norm(x))

Owns the order of things and the state that passes through. Neither trains nor samples.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twin.lm import state as states
from twin.lm.config import HybridConfig
from twin.lm.errors import BadTokens
from twin.lm.fusion import FUSIONS
from twin.lm.kernels.composed import unit_norm
from twin.lm.kernels.registry import Kernels, choose
from twin.lm.layers import Attention, ContextEmbedding, FeedForward, Mamba2, Rwkv6, Scale
from twin.lm.state import State

EMBEDDING_STD = 0.005
"""Small, since the embedding is normalised on its way in (RWKV starts at 1e-4) and is the head as
well: at GPT-2's 0.02 every token starts by predicting itself, 1 nat above the uniform loss. After
200 steps the loss is the same from 0.002 to 0.02."""
SEEDS = 2**31
SEED_STEP = 3
"""Masks that a block draws."""


class Block(nn.Module):
    """One layer of the network. Passes on the residual stream and what is still to be added to it,
    so that every addition is fused with the norm that follows."""

    def __init__(self, config: HybridConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.norm1 = Scale(config.d_model)
        self.rwkv = Rwkv6(config, layer) if config.has_rwkv else None
        self.mamba = Mamba2(config) if config.has_mamba else None
        self.fuse = FUSIONS[config.fusion](config) if config.pathways == "both" else None
        self.attention = Attention(config) if config.has_attention(layer) else None
        self.norm_attention = Scale(config.d_model) if self.attention is not None else None
        self.norm2 = Scale(config.d_model)
        self.ffn = FeedForward(config)
        self.gammas = nn.ParameterList(
            nn.Parameter(torch.full((config.d_model,), config.residual_gamma))
            for _ in range((2 + (self.attention is not None)) if config.residual_gamma else 0)
        )
        self.ablate: str | None = None
        """`rwkv`, `mamba` or `attention`: that branch says nothing, to see what it is worth."""
        self.tap: dict[str, Tensor] | None = None
        """A dict here is filled with `r`, `m`, `gate`, `x_in`, `x_out`, all (B, T, D)."""

    def forward(
        self, x: Tensor, y: Tensor | None, parts: State, kernels: Kernels, seed: int
    ) -> tuple[Tensor, Tensor, State]:
        """`x` (B, T, D) and `y`, what is to be added to it; the same of this block; its state."""
        c = self.config
        drop = c.dropout if self.training else 0.0
        taken = iter(parts)
        x, h = kernels.add_norm(x, y, self.norm1.weight, dropout=drop, seed=seed)
        if self.tap is not None:
            self.tap["x_in"] = x
        y, new = self._mix(h, taken, kernels)
        y = self._scaled(y, 0)
        if self.attention is not None:
            assert self.norm_attention is not None
            x, h = kernels.add_norm(x, y, self.norm_attention.weight, dropout=drop, seed=seed + 1)
            y, cache = self.attention(h, next(taken), kernels)
            y = torch.zeros_like(y) if self.ablate == "attention" else self._scaled(y, 2)
            new.append(cache)
        x, h = kernels.add_norm(x, y, self.norm2.weight, dropout=drop, seed=seed + 2)
        y = self._scaled(self.ffn(h, kernels), 1)
        if self.tap is not None:
            self.tap["x_out"] = x + y.to(x.dtype)
        return x, y, tuple(new)

    def _mix(self, h: Tensor, taken: Iterator[Tensor], kernels: Kernels) -> tuple[Tensor, Any]:
        """Both pathways on the same input, and their fusion."""
        c = self.config
        r = m = None
        wkv = next(taken) if self.rwkv is not None else None
        conv, ssm = (next(taken), next(taken)) if self.mamba is not None else (None, None)
        shift = next(taken) if c.has_rwkv and c.token_shift != "none" else None
        arbiter = next(taken) if self.fuse is not None and c.fusion == "MINGRU" else None
        if self.rwkv is not None:
            r, wkv, shift = self.rwkv(h, wkv, shift, kernels)
        if self.mamba is not None:
            m, conv, ssm = self.mamba(h, conv, ssm, kernels)
        r, m = self._silenced(r, m)
        if self.fuse is None:
            y = r if r is not None else m
        else:
            assert r is not None
            assert m is not None
            if self.tap is not None:
                normed = self.fuse.normed(r, m)
                self.tap.update(zip("rm", normed, strict=True))
                gate = self.fuse.gate(*normed)
                if gate is not None:
                    self.tap["gate"] = gate
            y, arbiter = self.fuse(r, m, arbiter, kernels)
        assert y is not None
        return y, [part for part in (wkv, conv, ssm, shift, arbiter) if part is not None]

    def _silenced(self, r: Tensor | None, m: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Ablation and, in training, pathway dropout: a sequence never loses both."""
        if r is not None and self.ablate == "rwkv":
            r = torch.zeros_like(r)
        if m is not None and self.ablate == "mamba":
            m = torch.zeros_like(m)
        share = self.config.pathway_dropout
        if self.training and share and r is not None and m is not None:
            draw = torch.rand(r.shape[0], 1, 1, device=r.device)
            r = r * (draw >= share / 2).to(r.dtype)
            m = m * (draw < 1 - share / 2).to(m.dtype)
        return r, m

    def _scaled(self, y: Tensor, place: int) -> Tensor:
        return y * self.gammas[place].to(y.dtype) if len(self.gammas) else y


class HybridLM(nn.Module):
    """The language model. Its state is a plain tuple of tensors (see `twin.lm.state`), the same
    size however much it has read."""

    def __init__(
        self, config: HybridConfig, *, kernels: str | Kernels = "auto", seed: int | None = None
    ) -> None:
        """`seed` decides the starting weights alone; the global generator is left as it was.
        Raises KernelUnavailable where a backend was named that cannot run."""
        super().__init__()
        self.config = config
        self.kernels = choose(kernels) if isinstance(kernels, str) else kernels
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            self.embed = nn.Embedding(config.vocab_size, config.d_model)
            nn.init.normal_(self.embed.weight, std=EMBEDDING_STD)
            self.context = ContextEmbedding(config) if config.num_recent else None
            self.blocks = nn.ModuleList(Block(config, n) for n in range(config.n_layers))
            self.norm = Scale(config.d_model)
            self.head: nn.Linear | None = None
            if not config.tie_embeddings:
                self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
                nn.init.normal_(self.head.weight, std=EMBEDDING_STD)
            sizes = Counter(part.layer for part in states.layout(config))
            ends = list(accumulate(sizes[layer] for layer in range(config.n_layers)))
            self._places = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
            """Where the parts of each layer stand in a state."""
            self.h0 = nn.ParameterList(
                nn.Parameter(torch.zeros(part.shape))
                for part in states.layout(config)
                if config.trainable_h0 and part.name in ("wkv", "ssm")
            )
        if self.kernels.name == "compiled":
            for block in self.blocks:
                block.compile()

    @property
    def head_weight(self) -> Tensor:
        """(X, D): the embedding itself where both are tied."""
        return self.embed.weight if self.head is None else self.head.weight

    def init_state(self, batch_size: int) -> State:
        """The state before the first token: zeros, or what was learnt as h0."""
        state = states.zeros(
            self.config, batch_size, self.embed.weight.device, self.embed.weight.dtype
        )
        if not self.config.trainable_h0:
            return state
        learnt = iter(self.h0)
        return tuple(
            next(learnt).expand_as(tensor) if part.name in ("wkv", "ssm") else tensor
            for part, tensor in zip(states.layout(self.config), state, strict=True)
        )

    def hidden(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """What the head reads, (B, T, D) normalised, and the state after the last token. Raises
        BadState for a state of another network or batch, BadTokens for no (B, T) of tokens."""
        if tokens_BT.dim() != 2:
            raise BadTokens(f"Tokens of shape {tuple(tokens_BT.shape)}: give (batch, time).")
        if state is None:
            state = self.init_state(tokens_BT.shape[0])
        states.check(self.config, state, tokens_BT.shape[0])
        drop = self.config.dropout if self.training else 0.0
        # One draw a pass from the global generator; every layer's mask follows from it.
        seed = int(torch.randint(SEEDS, ()).item()) if drop else 0
        # RWKV's ln0: small embeddings, tied to the head, enter the stream at unit size.
        x = unit_norm(self.embed(tokens_BT))
        recent: list[Tensor] = []
        if self.context is not None:
            added, last = self.context(tokens_BT, state[-1], self.kernels)
            x, recent = x + added.to(x.dtype), [last]
        x = F.dropout(x, drop) if drop else x
        y: Tensor | None = None
        new: list[Tensor] = []
        for layer, (block, place) in enumerate(zip(self.blocks, self._places, strict=True)):
            x, y, parts = block(x, y, state[place], self.kernels, seed + SEED_STEP * layer)
            new.extend(parts)
        seed += SEED_STEP * len(self.blocks)
        _, h = self.kernels.add_norm(x, y, self.norm.weight, dropout=drop, seed=seed)
        return h, (*new, *recent)

    def forward(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Next-token logits, (B, T, X) float32, and the state after the last token."""
        h_BTD, new = self.hidden(tokens_BT, state)
        logits = self.kernels.linear(h_BTD, self.head_weight)
        return logits.float() if logits.dtype != torch.float64 else logits, new

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """One token per stream: logits (B, X) and the next state."""
        logits, new = self.forward(tokens_B[:, None], state)
        return logits[:, 0], new

    def num_parameters(self) -> int:
        """Trainable numbers, those shared counted once."""
        return sum(parameter.numel() for parameter in self.parameters())
