"""The shape of a network: one frozen record, five presets, and what a shape costs.

Needs no torch, so that a table of presets or a refusal costs no start-up time. Shape letters used
in this room: B batch, T time, D d_model, H RWKV heads of K = V = head_dim channels, M Mamba heads
of P = mamba_head_dim channels, N d_state, I = M * P inner width, C = I + 2N convolved channels,
R decay_rank, F feed-forward width, X vocabulary.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_type_hints

from twin.lm.errors import BadConfig

Fusion = Literal["GF", "HGF", "WS", "RF", "HY", "CP", "MINGRU"]
Pathways = Literal["both", "rwkv", "mamba"]
TokenShift = Literal["none", "static", "dd"]

MINGRU_GATES = 16
"""Gates of the minGRU arbiter; each one serves D / 16 neighbouring channels."""
SHIFT_RANK = 32
"""Rank of the data-dependent token shift, as in RWKV-6 up to 4,096 channels."""
MOST_NGRAM = 16
MOST_WINDOW = 2**20
MOST_ROWS = 2**24
MOST_EXACT = 2**24
INDUCTION_LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
SHIFTED = 5
"""What RWKV-6 shifts separately: r, k, v, g and the decay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridConfig:
    """Everything that decides the shapes and the equations. Raises BadConfig with a cure."""

    vocab_size: int
    d_model: int = 256
    n_layers: int = 5
    head_dim: int = 32
    mamba_head_dim: int = 32
    d_state: int = 32
    expand: int = 1
    """Inner width of Mamba-2 over d_model. 2 is usual; at equal parameters 1 was as good."""
    conv_width: int = 4
    decay_rank: int = 32
    ffn_mult: float = 3.5
    pathways: Pathways = "both"
    fusion: Fusion = "GF"
    gate_init: float = 0.3
    """Share of RWKV at the start, where the fusion has one: Mamba-heavy starts measured best."""
    branch_norm: bool = True
    """RMS-normalises both branches before they are fused. RWKV's starts 3.6 times smaller (its gate
    comes after its norm) and would be starved: at 100 thousand tokens this is worth 0.05 nats."""
    token_shift: TokenShift = "none"
    """Mamba's convolution already mixes neighbours: without it both loss and speed are better."""
    dropout: float = 0.0
    """Of what is added to the residual stream, and of the embedding."""
    pathway_dropout: float = 0.0
    """How often a sequence is trained with one pathway silent, per block."""
    tie_embeddings: bool = True
    attention_every: int = 0
    """An attention layer after the mixers of every n-th block; 0: none."""
    attention_window: int = 0
    """Tokens it looks back; 0: all, and then its state grows with the context."""
    attention_heads: int = 4
    attention_norm: bool = False
    """RMS-normalises its queries and keys, head by head."""
    attention_positions: Literal["none", "rope"] = "none"
    """The recurrences around it know the order; `rope` also turns queries and keys by their
    distance (Su et al. 2021, base 10,000)."""
    ngram_max: int = 0
    """Beside its own embedding a token brings those of the n-grams that end with it, of 2 tokens
    up to so many; 0: none. Tables cost hardly any time, so a network that is trained for minutes
    learns more with a quarter of its parameters in them."""
    ngram_rows: int = 8192
    """Embeddings of each length; n-grams share them by a hash (BLT, arXiv 2412.09871, sec. 3.2)."""
    ngram_dim: int = 32
    """Width of an embedding, before all of them together are projected to d_model."""
    induction_max: int = 0
    """A token also brings what followed when the n-gram that ends with it was there the last time,
    of lengths 1, 2, 3, 4, 6, 8, 12 .. up to so many; 0: not. Repetition, which a fixed state and
    short training learn late, is then there from the first step."""
    induction_window: int = 4096
    """Tokens that are looked back, and kept in the state (as four bytes each)."""
    residual_gamma: float = 0.0
    """Start of a learnt per-channel scale on what a layer adds; 0: no such scale."""
    state_norm_groups: int = 0
    """Group-normalises what is read from the states; 0: not. (The state itself cannot be
    normalised at every token and still be computed in parallel.)"""
    trainable_h0: bool = False
    a_init: Literal["uniform", "log"] = "uniform"
    """Mamba's A: uniform in 1 .. 16, or spaced evenly in its logarithm."""
    decay_init: Literal["rwkv6", "identity"] = "rwkv6"
    """`identity`: every channel starts by keeping 0.9999 of its state per token."""
    logw_min: float = -5.0
    """Floor of RWKV's log decay per token (0.0067). Keeps a chunk of 32 inside float32's range."""
    chunk: int = 32
    ssd_chunk: int = 64

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise BadConfig(f"{name} = {value!r} is not known. Use one of {list(allowed)}.")
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise BadConfig(f"{name} = {getattr(self, name)} is too small. Use 1 or more.")
        for name, part in (("head_dim", self.d_model), ("mamba_head_dim", self.d_inner)):
            if part % getattr(self, name):
                raise BadConfig(
                    f"{name} = {getattr(self, name)} does not divide {part} channels. "
                    f"Choose {name} or d_model so that it does."
                )
        for name in ("dropout", "pathway_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise BadConfig(f"{name} = {getattr(self, name)} is no share. Use 0 up to 0.9.")
        if not 0.0 < self.gate_init < 1.0:
            raise BadConfig(f"gate_init = {self.gate_init} must lie between 0 and 1.")
        if self.conv_width < 2:
            raise BadConfig("conv_width = 1 mixes nothing. Use 2 or more.")
        if not self.logw_min < 0:
            raise BadConfig(f"logw_min = {self.logw_min} must be negative. The default is -5.")
        self._check_options()

    def _check_options(self) -> None:
        if self.fusion == "MINGRU" and self.d_model % MINGRU_GATES:
            raise BadConfig(f"MINGRU needs d_model divisible by {MINGRU_GATES}.")
        if self.attention_every < 0 or self.attention_window < 0:
            raise BadConfig("attention_every and attention_window cannot be negative. Use 0.")
        if self.attention_every and self.d_model % self.attention_heads:
            raise BadConfig(
                f"attention_heads = {self.attention_heads} does not divide d_model = "
                f"{self.d_model}. Choose another number of heads."
            )
        if self.attention_positions == "rope" and self.d_model // self.attention_heads % 2:
            raise BadConfig(
                f"rope turns pairs of channels, and {self.attention_heads} heads of "
                f"{self.d_model // self.attention_heads} have an odd one. Change attention_heads."
            )
        if self.ngram_max not in (0, *range(2, MOST_NGRAM + 1)):
            raise BadConfig(
                f"ngram_max = {self.ngram_max} is no length. Use 2 to {MOST_NGRAM}, or 0 for none."
            )
        if self.induction_max not in range(INDUCTION_LENGTHS[-1] + 1):
            raise BadConfig(
                f"induction_max = {self.induction_max} is no length. Use 1 to "
                f"{INDUCTION_LENGTHS[-1]}, or 0 for none."
            )
        if self.induction_window > MOST_WINDOW:
            raise BadConfig(
                f"induction_window = {self.induction_window:,}: every stream keeps so many tokens. "
                f"Use {MOST_WINDOW:,} or less."
            )
        if self.ngram_rows > MOST_ROWS:
            raise BadConfig(
                f"ngram_rows = {self.ngram_rows:,} for each length are more than can be told "
                f"apart. Use {MOST_ROWS:,} or less."
            )
        if self.num_recent and self.vocab_size >= MOST_EXACT:
            raise BadConfig(
                f"vocab_size = {self.vocab_size:,} with ngram_max or induction_max: a state keeps "
                f"tokens as float32, exact below {MOST_EXACT:,}. Use a smaller vocabulary."
            )
        groups = self.state_norm_groups
        if groups < 0 or (groups and (self.d_model % groups or self.d_inner % groups)):
            raise BadConfig(f"state_norm_groups = {groups} does not divide {self.d_model}.")

    @property
    def ngram_lengths(self) -> tuple[int, ...]:
        """Of the n-grams that have an embedding."""
        return tuple(range(2, self.ngram_max + 1))

    @property
    def induction_lengths(self) -> tuple[int, ...]:
        """Of the n-grams of which is looked up what followed them."""
        return tuple(n for n in INDUCTION_LENGTHS if n <= self.induction_max)

    @property
    def num_recent(self) -> int:
        """Tokens that the state remembers one by one."""
        looked_back = self.induction_window + self.induction_max if self.induction_max else 0
        return max(self.ngram_max - 1, looked_back, 0)

    @property
    def d_inner(self) -> int:
        """I: channels of the Mamba-2 pathway."""
        return self.expand * self.d_model

    @property
    def n_heads(self) -> int:
        """H: heads of RWKV-6."""
        return self.d_model // self.head_dim

    @property
    def mamba_heads(self) -> int:
        """M: heads of Mamba-2."""
        return self.d_inner // self.mamba_head_dim

    @property
    def conv_channels(self) -> int:
        """C: channels that pass Mamba-2's convolution."""
        return self.d_inner + 2 * self.d_state

    @property
    def d_ffn(self) -> int:
        """F, a multiple of 16 so that every row is aligned."""
        return max(16, round(self.ffn_mult * self.d_model / 16) * 16)

    @property
    def has_rwkv(self) -> bool:
        return self.pathways != "mamba"

    @property
    def has_mamba(self) -> bool:
        return self.pathways != "rwkv"

    def has_attention(self, layer: int) -> bool:
        """Whether block `layer`, counted from 0, carries an attention anchor."""
        return bool(self.attention_every) and (layer + 1) % self.attention_every == 0

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "HybridConfig":
        """Raises BadConfig for an unknown key (with the nearest known one) or a wrong type."""
        hints = get_type_hints(cls)
        for name, value in values.items():
            if name not in hints:
                near = get_close_matches(name, hints, n=1)
                raise BadConfig(
                    f"`{name}` is no part of a network's shape. "
                    + (f"Did you mean `{near[0]}`?" if near else "Leave it out.")
                )
            wanted = hints[name]
            kind = wanted if isinstance(wanted, type) else str
            fits = isinstance(value, (int, float) if kind is float else kind)
            if not fits or (isinstance(value, bool) and kind is not bool):
                raise BadConfig(f"{name} = {value!r} is of the wrong type. Give a {kind.__name__}.")
        if "vocab_size" not in values:
            raise BadConfig("`vocab_size` is missing. Give the number of symbols.")
        return cls(**values)


_CHOICES: dict[str, tuple[str, ...]] = {
    "fusion": get_args(Fusion),
    "pathways": get_args(Pathways),
    "token_shift": get_args(TokenShift),
    "a_init": ("uniform", "log"),
    "decay_init": ("rwkv6", "identity"),
    "attention_positions": ("none", "rope"),
}
_POSITIVE = (
    "vocab_size", "d_model", "n_layers", "head_dim", "mamba_head_dim", "d_state", "expand",
    "conv_width", "decay_rank", "attention_heads", "ngram_rows", "ngram_dim", "induction_window",
    "chunk", "ssd_chunk",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A shape under a name, and the vocabulary that its name is counted with."""

    shape: Mapping[str, Any]
    vocab_size: int
    tokens: str
    """The tokenizer that it is meant for."""


PRESETS: dict[str, Preset] = {
    "3.5M": Preset(
        shape={"d_model": 192, "n_layers": 6, "ffn_mult": 3.5}, vocab_size=97, tokens="char"
    ),
    "5M": Preset(
        shape={"d_model": 256, "n_layers": 5, "ffn_mult": 3.375}, vocab_size=97, tokens="char"
    ),
    "8M": Preset(
        shape={"d_model": 320, "n_layers": 5, "ffn_mult": 3.5}, vocab_size=264, tokens="byte"
    ),
    "30M": Preset(
        shape={"d_model": 384, "n_layers": 8, "head_dim": 64, "mamba_head_dim": 64, "d_state": 64,
               "decay_rank": 64, "expand": 2, "ffn_mult": 3.0},
        vocab_size=24_000, tokens="bpe",
    ),
    "125M": Preset(
        shape={"d_model": 768, "n_layers": 16, "head_dim": 64, "mamba_head_dim": 64, "d_state": 64,
               "decay_rank": 64, "expand": 1, "ffn_mult": 1.625},
        vocab_size=24_000, tokens="bpe",
    ),
}  # fmt: skip
"""Named by their parameters, embedding included."""


def preset(name: str, *, vocab_size: int | None = None, **overrides: Any) -> HybridConfig:
    """The preset's shape with its own vocabulary, or with another, and with other options."""
    if name not in PRESETS:
        raise BadConfig(f"There is no preset `{name}`. Use one of {', '.join(PRESETS)}.")
    known = PRESETS[name]
    values = {"vocab_size": vocab_size or known.vocab_size, **known.shape, **overrides}
    return HybridConfig.from_dict(values)


def num_parameters(config: HybridConfig) -> int:
    """Trainable numbers of the whole network, counted without building it."""
    c = config
    embeddings = c.vocab_size * c.d_model * (1 if c.tie_embeddings else 2)
    rows = len(c.ngram_lengths) * c.ngram_rows
    rows += c.vocab_size + 1 if c.induction_lengths else 0
    features = len(c.ngram_lengths) + len(c.induction_lengths)
    embeddings += c.ngram_dim * (rows + features * c.d_model)
    per_block = sum(part(c) for part in _PER_BLOCK)
    anchors = sum(c.has_attention(layer) for layer in range(c.n_layers))
    anchor = c.d_model + 4 * c.d_model * c.d_model + (c.d_model if c.residual_gamma else 0)
    return embeddings + c.d_model + c.n_layers * per_block + anchors * anchor


def state_bytes(config: HybridConfig, num_tokens: int = 0) -> int:
    """Bytes of one stream's float32 state after `num_tokens`, which matter only where attention
    anchors keep keys and values."""
    c = config
    layer = 0
    if c.has_rwkv:
        layer += c.d_model * c.head_dim + (c.d_model if c.token_shift != "none" else 0)
    if c.has_mamba:
        layer += c.d_inner * c.d_state + (c.conv_width - 1) * c.conv_channels
    if c.pathways == "both" and c.fusion == "MINGRU":
        layer += MINGRU_GATES
    kept = min(num_tokens, c.attention_window) if c.attention_window else num_tokens
    anchors = sum(c.has_attention(layer) for layer in range(c.n_layers))
    return 4 * (c.n_layers * layer + anchors * 2 * c.d_model * kept + c.num_recent)


def _rwkv_parameters(c: HybridConfig) -> int:
    if not c.has_rwkv:
        return 0
    shift = {
        "none": 0,
        "static": SHIFTED * c.d_model,
        "dd": (SHIFTED + 1) * c.d_model + 2 * SHIFTED * SHIFT_RANK * c.d_model,
    }[c.token_shift]
    h0 = c.d_model * c.head_dim if c.trainable_h0 else 0
    # in_proj, decay_up, decay_base, bonus, norm's weight and bias, out_proj
    return (
        (4 * c.d_model + c.decay_rank) * c.d_model
        + c.d_model * c.decay_rank
        + 4 * c.d_model
        + c.d_model * c.d_model
        + shift
        + h0
    )


def _mamba_parameters(c: HybridConfig) -> int:
    if not c.has_mamba:
        return 0
    h0 = c.d_inner * c.d_state if c.trainable_h0 else 0
    rows = 2 * c.d_inner + 2 * c.d_state + c.mamba_heads
    # in_proj, convolution and its bias, dt_bias, a_log, skip, norm, out_proj
    return (
        rows * c.d_model
        + c.conv_channels * (c.conv_width + 1)
        + 3 * c.mamba_heads
        + c.d_inner
        + c.d_inner * c.d_model
        + h0
    )


def _fusion_parameters(c: HybridConfig) -> int:
    if c.pathways != "both":
        return 0
    d = c.d_model
    return {
        "WS": 1,
        "RF": 1,
        "HY": 2 * d,
        "GF": 2 * d + 1,
        "HGF": 2 * d * d + d,
        "CP": 2 * d * d,
        "MINGRU": 2 * (2 * d + 1) * MINGRU_GATES,
    }[c.fusion]


def _other_parameters(c: HybridConfig) -> int:
    """Two norms, the feed-forward pair and the residual scales."""
    scales = 2 * c.d_model if c.residual_gamma else 0
    return 2 * c.d_model + 2 * c.d_ffn * c.d_model + scales


_PER_BLOCK: tuple[Callable[[HybridConfig], int], ...] = (
    _rwkv_parameters,
    _mamba_parameters,
    _fusion_parameters,
    _other_parameters,
)
