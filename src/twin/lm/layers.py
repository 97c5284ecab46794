"""The layers: RWKV-6 time mixing, Mamba-2, the feed-forward pair, the attention anchor, and what
tokens bring along of their context before all blocks.

Owns parameters and their starting values; the equations between the matrix products are the
kernels'. Shape letters as in `twin.lm.config`.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twin.lm.config import SHIFT_RANK, SHIFTED, HybridConfig
from twin.lm.kernels.composed import unit_norm, wide
from twin.lm.kernels.registry import Kernels

ROPE_BASE = 10_000.0
CONTEXT_STD = 0.1
"""Of the table at the start; the token's own embedding enters the stream at unit size."""
HASH_STEP, HASH_MIX, HASH_MASK = 0x9E3779B1, 0x2C1B3C6D, 2**31 - 1
"""Odd multipliers (2^32 / golden ratio; one of hash-prospector's), in 31 bits: no product leaves
int64."""
CODE_STEP, CODE_MASK = 0x5851F42D4C957F2D, 2**63 - 1
"""Knuth's MMIX multiplier, for codes that stand for their n-grams: products wrap around, and two
of the 63-bit codes in a window are equal by chance in one of 10^10 windows."""
IN_GAIN = 0.5
"""Standard deviation of input projections times sqrt(fan in)."""


def projection(fan_in: int, fan_out: int, gain: float) -> nn.Linear:
    """A matrix without a bias, normal with a standard deviation of gain / sqrt(fan_in)."""
    layer = nn.Linear(fan_in, fan_out, bias=False)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(fan_in))
    return layer


def out_gain(config: HybridConfig) -> float:
    """What adds to the residual stream starts small, so that its variance does not grow with the
    number of layers (GPT-2's rule)."""
    return IN_GAIN / math.sqrt(2 * config.n_layers)


class Scale(nn.Module):
    """The learnt per-channel weight of a norm; the kernels do the norm."""

    def __init__(self, width: int, *, with_bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if with_bias else None


class Rwkv6(nn.Module):
    """Time mixing of RWKV-6 (arXiv 2404.05892): matrix states with a decay per channel that the
    data decides, and a bonus u for the present token."""

    def __init__(self, config: HybridConfig, layer: int) -> None:
        super().__init__()
        width, rank = config.d_model, config.decay_rank
        self.logw_min = config.logw_min
        self.in_proj = projection(width, 4 * width + rank, IN_GAIN)
        self.decay_up = nn.Linear(rank, width, bias=False)
        nn.init.uniform_(self.decay_up.weight, -0.01, 0.01)
        depth = layer / max(config.n_layers - 1, 1)
        place = torch.arange(width) / max(width - 1, 1)
        if config.decay_init == "identity":
            base = torch.full((width,), math.log(-math.log(0.9999)))
        else:  # RWKV-LM's RWKV-v6 demo: slow channels first, the spread grows with depth
            base = -6 + 5 * place ** (0.7 + 1.3 * depth)
        self.decay_base = nn.Parameter(base)
        zigzag = ((torch.arange(width) + 1) % 3 - 1) * 0.1
        bonus = depth * (1 - place) + zigzag
        self.bonus = nn.Parameter(bonus.view(config.n_heads, config.head_dim))
        self.norm = Scale(width, with_bias=True)
        self.out_proj = projection(width, width, out_gain(config))
        self.groups = config.state_norm_groups
        self.shift: TokenShift | None = None
        if config.token_shift != "none":
            self.shift = TokenShift(width, data_dependent=config.token_shift == "dd")

    def forward(
        self, h_BTD: Tensor, state_BHKV: Tensor, shift_BD: Tensor | None, kernels: Kernels
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The branch's output, the new state, and the last input where tokens are shifted."""
        norm_bias = self.norm.bias
        assert norm_bias is not None
        if self.shift is None:
            o_BTD, state = kernels.rwkv_decay_mix(
                kernels.linear(h_BTD, self.in_proj.weight), self.decay_up.weight, self.decay_base,
                self.bonus, self.norm.weight, norm_bias, state_BHKV, logw_min=self.logw_min,
            )  # fmt: skip
        else:
            p_BTP, low_BTR = self._project(h_BTD, shift_BD, kernels)
            w_BTD = kernels.linear(torch.tanh(low_BTR), self.decay_up.weight) + self.decay_base
            o_BTD, state = kernels.rwkv_mix(
                p_BTP, w_BTD, self.bonus, self.norm.weight, norm_bias, state_BHKV,
                logw_min=self.logw_min,
            )  # fmt: skip
        o_BTD = grouped_norm(o_BTD, self.groups)
        last = wide(h_BTD[:, -1]) if self.shift is not None and h_BTD.shape[1] else shift_BD
        return kernels.linear(o_BTD, self.out_proj.weight), state, last

    def _project(
        self, h_BTD: Tensor, shift_BD: Tensor | None, kernels: Kernels
    ) -> tuple[Tensor, Tensor]:
        """[r | k | v | g] and the decay's low rank, each from its own mixture of two tokens."""
        assert self.shift is not None
        assert shift_BD is not None
        width = h_BTD.shape[-1]
        rows = torch.split(self.in_proj.weight, [width] * 4 + [self.decay_up.in_features])
        mixed = self.shift(h_BTD, shift_BD)
        parts = [kernels.linear(x, row) for x, row in zip(mixed, rows, strict=True)]
        return torch.cat(parts[:4], dim=-1), parts[4]


class TokenShift(nn.Module):
    """Mixes each token with the one before, separately for r, k, v, g and the decay: by learnt
    shares (RWKV-4) or by shares that the data decides (RWKV-6, eq. 14-16)."""

    def __init__(self, width: int, *, data_dependent: bool) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.full((SHIFTED, width), 0.5))
        self.data_dependent = data_dependent
        if data_dependent:
            self.base = nn.Parameter(torch.full((width,), 0.5))
            self.down = nn.Parameter(torch.empty(SHIFTED * SHIFT_RANK, width).uniform_(-1e-2, 1e-2))
            self.up = nn.Parameter(torch.empty(SHIFTED, width, SHIFT_RANK).uniform_(-1e-2, 1e-2))

    def forward(self, h_BTD: Tensor, shift_BD: Tensor) -> list[Tensor]:
        before = torch.cat([shift_BD[:, None].to(h_BTD.dtype), h_BTD[:, :-1]], dim=1)
        gap = before - h_BTD
        shares = list(self.share.to(h_BTD.dtype))
        if self.data_dependent:
            low = torch.tanh(F.linear(h_BTD + gap * self.base.to(h_BTD.dtype), self.down))
            lows = low.view(*low.shape[:-1], SHIFTED, SHIFT_RANK).unbind(-2)
            shares = [
                share + F.linear(low, up)
                for share, low, up in zip(shares, lows, self.up, strict=True)
            ]
        return [h_BTD + gap * share for share in shares]


class Mamba2(nn.Module):
    """Mamba-2 (arXiv 2405.21060): one decay per head and token, B and C shared by all heads."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        inner, heads, channels = config.d_inner, config.mamba_heads, config.conv_channels
        rows = inner + channels + heads
        self.in_proj = projection(config.d_model, rows, IN_GAIN)
        bound = 1 / math.sqrt(config.conv_width)
        self.conv_weight = nn.Parameter(
            torch.empty(channels, config.conv_width).uniform_(-bound, bound)
        )
        self.conv_bias = nn.Parameter(torch.zeros(channels))
        # state-spaces/mamba: dt starts between 0.001 and 0.1, stored before its softplus.
        dt = torch.exp(torch.empty(heads).uniform_(math.log(1e-3), math.log(1e-1)))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        a = torch.empty(heads).uniform_(1, 16)
        if config.a_init == "log":
            a = torch.logspace(0, math.log10(16), heads)
        self.a_log = nn.Parameter(torch.log(a))
        self.skip = nn.Parameter(torch.ones(heads))
        self.norm = Scale(inner)
        self.out_proj = projection(inner, config.d_model, out_gain(config))
        self.groups = config.state_norm_groups

    def forward(
        self, h_BTD: Tensor, conv_state: Tensor, ssm_state: Tensor, kernels: Kernels
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The branch's output and both new states."""
        o_BTI, conv_state, ssm_state = kernels.mamba_mix(
            kernels.linear(h_BTD, self.in_proj.weight), self.conv_weight, self.conv_bias,
            self.dt_bias, self.a_log, self.skip, self.norm.weight, conv_state, ssm_state,
        )  # fmt: skip
        o_BTI = grouped_norm(o_BTI, self.groups)
        return kernels.linear(o_BTI, self.out_proj.weight), conv_state, ssm_state


class ContextEmbedding(nn.Module):
    """What a token brings along of those before it, beside its own embedding.

    The embeddings of the n-grams that end with it, found by a hash (BLT, arXiv 2412.09871), and of
    the tokens that followed when those n-grams were there the last time: what an induction head
    (Olsson et al. 2022, arXiv 2209.11895) learns to find, looked up exactly and at any distance
    within the window. All of them together are projected to the stream.
    """

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.lengths, self.looked_up = config.ngram_lengths, config.induction_lengths
        self.rows, self.window, self.kept = (
            config.ngram_rows, config.induction_window, config.num_recent
        )  # fmt: skip
        num_rows = len(self.lengths) * self.rows
        self.start = num_rows
        """Of the rows of followers, the first of which stands for none."""
        if self.looked_up:
            num_rows += config.vocab_size + 1
        self.table = nn.Parameter(torch.empty(num_rows, config.ngram_dim))
        nn.init.normal_(self.table, std=CONTEXT_STD)
        self.kinds = tuple(
            kind
            for length in range(1, max((*self.lengths, *self.looked_up)) + 1)
            for kind, lengths in (("ngrams", self.lengths), ("induction", self.looked_up))
            if length in lengths
        )
        """What each feature is, in the order in which they are projected."""
        self.projection = projection(len(self.kinds) * config.ngram_dim, config.d_model, 1.0)
        self.ablate: str | None = None
        """A kind that says nothing, to see what it is worth."""

    def forward(
        self, tokens_BT: Tensor, recent_BN: Tensor, kernels: Kernels
    ) -> tuple[Tensor, Tensor]:
        """What is added to the tokens' own embeddings (B, T, D), and the last N tokens. They are
        kept plus 1, as floats: exact up to 16 million; 0 is what stands before the first."""
        time = tokens_BT.shape[1]
        seen_BS = torch.cat([recent_BN.long(), tokens_BT + 1], dim=1)
        kept_BN = seen_BS[:, seen_BS.shape[1] - self.kept :].to(recent_BN.dtype)
        if not time:
            empty = self.projection.weight.new_zeros(*tokens_BT.shape, len(self.projection.weight))
            return empty, kept_BN
        began = int((seen_BS != 0).any(dim=0).to(torch.int8).argmax())
        seen_BS = seen_BS[:, began:]  # nobody's: a fresh stream has nothing to look through
        rows = torch.stack(list(self._rows(seen_BS, time)), dim=-1)
        found_BTFE = F.embedding(rows, self.table)
        if self.ablate in self.kinds:
            said = [kind != self.ablate for kind in self.kinds]
            found_BTFE = found_BTFE * found_BTFE.new_tensor(said)[:, None]
        return kernels.linear(found_BTFE.flatten(-2), self.projection.weight), kept_BN

    def _rows(self, seen_BS: Tensor, time: int) -> Iterator[Tensor]:
        """(B, T) for each feature of `kinds`: the row of the table."""
        hash_BS = code_BS = first_BS = seen_BS
        for length in range(1, max((*self.lengths, *self.looked_up)) + 1):
            if length > 1:
                first_BS = F.pad(seen_BS, (length - 1, 0))[:, : seen_BS.shape[1]]
                hash_BS = (hash_BS * HASH_STEP + first_BS) & HASH_MASK
                code_BS = (code_BS * CODE_STEP + first_BS) & CODE_MASK
            if length in self.lengths:
                found = hash_BS[:, -time:]
                mixed = ((found ^ (found >> 15)) * HASH_MIX) & HASH_MASK
                yield (mixed ^ (mixed >> 13)) % self.rows + (length - 2) * self.rows
            if length in self.looked_up:
                found = followers(seen_BS, code_BS, first_BS != 0, window=self.window, time=time)
                yield self.start + found


def followers(
    seen_BS: Tensor, code_BS: Tensor, is_whole_BS: Tensor, *, window: int, time: int
) -> Tensor:
    """For each of the last `time` places the token (plus 1) that followed the nearest earlier place
    with the same code, at most `window` back; 0 where there is none, or its n-gram is not whole."""
    places = torch.arange(seen_BS.shape[1], device=seen_BS.device)
    # An n-gram that is cut off at the start is like no other.
    code_BS = torch.where(is_whole_BS, code_BS, -1 - places)
    if time == 1:  # to search for one is less work than to sort all
        is_same = code_BS == code_BS[:, -1:]
        is_same[:, -1] = False
        found = torch.where(is_same, places, -1).amax(dim=1, keepdim=True)
    else:
        ordered, order = code_BS.sort(dim=1, stable=True)
        earlier = torch.where(ordered[:, 1:] == ordered[:, :-1], order[:, :-1], -1)
        found = torch.full_like(order, -1).scatter(1, order[:, 1:], earlier)[:, -time:]
    is_near = (found >= 0) & (found >= places[-time:] - window)
    return torch.where(is_near, seen_BS.gather(1, found + 1), 0)


class FeedForward(nn.Module):
    """down(relu(up(h)) ** 2)."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.up = projection(config.d_model, config.d_ffn, IN_GAIN)
        self.down = projection(config.d_ffn, config.d_model, out_gain(config))

    def forward(self, h_BTD: Tensor, kernels: Kernels) -> Tensor:
        up = kernels.linear(h_BTD, self.up.weight)
        return kernels.linear(kernels.relu2(up), self.down.weight)


class Attention(nn.Module):
    """The anchor: causal softmax attention over all tokens or a window. Its state is what it may
    look at again, keys before they are turned."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        width = config.d_model
        self.heads, self.window = config.attention_heads, config.attention_window
        self.normed, self.turned = config.attention_norm, config.attention_positions == "rope"
        self.in_proj = projection(width, 3 * width, IN_GAIN)
        self.out_proj = projection(width, width, out_gain(config))

    def forward(self, h_BTD: Tensor, kv: Tensor, kernels: Kernels) -> tuple[Tensor, Tensor]:
        """The output and the new cache, (B, 2, heads, tokens, head_dim)."""
        batch, time, width = h_BTD.shape
        qkv = kernels.linear(h_BTD, self.in_proj.weight)
        qkv = qkv.view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if self.normed:
            q, k = unit_norm(q), unit_norm(k)
        seen = torch.cat([kv.to(k.dtype), torch.stack([k, v], dim=1)], dim=3)
        total = seen.shape[3]
        is_plain = total == time and (not self.window or self.window >= time)
        mask = None if is_plain else self._mask(time, total, h_BTD.device)
        keys = seen[:, 0]
        if self.turned:  # by places in what is seen: distances are all that counts
            turn = rotation(total, q)
            q, keys = rotated(q, turn[:, -time:]), rotated(keys, turn)
        o = F.scaled_dot_product_attention(q, keys, seen[:, 1], attn_mask=mask, is_causal=is_plain)
        kept = seen[:, :, :, -self.window :] if self.window else seen
        o_BTD = o.transpose(1, 2).reshape(batch, time, width)
        return kernels.linear(o_BTD, self.out_proj.weight), kept.to(kv.dtype)

    def _mask(self, time: int, total: int, device: torch.device) -> Tensor:
        """True where token t may look: itself and, at most `window` back, what came before."""
        here = torch.arange(total - time, total, device=device)[:, None]
        there = torch.arange(total, device=device)[None]
        mask = there <= here
        return mask & (there > here - self.window) if self.window else mask


def rotation(num_positions: int, like: Tensor) -> Tensor:
    """Cosines and sines of every position's angles, (2, positions, channels), at least float32."""
    dtype, device = torch.promote_types(like.dtype, torch.float32), like.device
    share = torch.arange(0, like.shape[-1], 2, dtype=dtype, device=device) / like.shape[-1]
    places = torch.arange(num_positions, dtype=dtype, device=device)
    angle = torch.outer(places, torch.exp(-math.log(ROPE_BASE) * share))
    return torch.stack([angle.cos().repeat(1, 2), torch.cat([-angle.sin(), angle.sin()], -1)])


def rotated(x: Tensor, turn: Tensor) -> Tensor:
    """(..., positions, channels), channel i and i + K/2 turned together."""
    cos, sin = turn.to(x.dtype).unbind()
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def grouped_norm(x: Tensor, groups: int) -> Tensor:
    """What was read from a state, normalised in groups of channels (StateNorm); 0 groups: as is."""
    if not groups:
        return x
    grouped = x.view(*x.shape[:-1], groups, -1)
    return unit_norm(grouped).flatten(-2)
