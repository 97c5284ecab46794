"""Names of variants, and configurations of equal size behind them.

A name is a fusion or a pure pathway, then a start, then options: `GF-MH`, `HGF-RH+shift+gamma`,
`mamba`. Owns the names and the equal number of parameters; trains nothing. Needs no torch.

Starts: `-MH` gives RWKV a share of 0.3 (Mamba-heavy), `-RH` 0.7; without one both get half. `HY`
has no share: its gains start at 0.7 and 0.3. Parameters are made equal by the width of the
feed-forward layers alone: depth and model width, which decide what a pathway can hold, stay as they
are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from twin.lm.config import HybridConfig, num_parameters
from twin.lm.errors import BadConfig

TOLERANCE = 0.01
"""Share by which the number of parameters of two variants may differ."""

_FUSIONS: dict[str, dict[str, Any]] = {
    "WS": {"fusion": "WS", "gate_init": 0.5},
    "RF": {"fusion": "RF", "gate_init": 0.5},
    "HY": {"fusion": "HY"},
    "GF": {"fusion": "GF", "gate_init": 0.5},
    "HGF": {"fusion": "HGF", "gate_init": 0.5},
    "CP": {"fusion": "CP", "gate_init": 0.5},
    "MINGRU": {"fusion": "MINGRU", "gate_init": 0.5},
}
_STARTS = {"MH": 0.3, "RH": 0.7}
_STARTED = ("WS", "RF", "GF", "HGF", "CP", "MINGRU")
"""Fusions with a share to start from."""

BASES: dict[str, dict[str, Any]] = {
    **{name: {"pathways": "both", **values} for name, values in _FUSIONS.items()},
    **{
        f"{name}-{start}": {"pathways": "both", "fusion": name, "gate_init": share}
        for name in _STARTED
        for start, share in _STARTS.items()
    },
    # With the token shift that belongs to it. Beside Mamba-2, whose convolution does as much, it is
    # left out: it costs time and gains nothing.
    "rwkv": {"pathways": "rwkv", "token_shift": "dd"},
    "mamba": {"pathways": "mamba"},
}
"""What stands before the first `+`."""

OPTIONS: dict[str, Callable[[HybridConfig], dict[str, Any]]] = {
    "shift": lambda c: {"token_shift": "static"},
    "ddshift": lambda c: {"token_shift": "dd"},
    "noshift": lambda c: {"token_shift": "none"},
    "gamma": lambda c: {"residual_gamma": 0.01},
    "statenorm": lambda c: {"state_norm_groups": 4},
    "h0": lambda c: {"trainable_h0": True},
    "alog": lambda c: {"a_init": "log"},
    "identity": lambda c: {"decay_init": "identity"},
    # One layer of attention, in the middle.
    "anchor": lambda c: {"attention_every": c.n_layers // 2 + 1},
    "ngrams": lambda c: {"ngram_max": 4},
    "induction": lambda c: {"induction_max": 16},
    "pdrop": lambda c: {"pathway_dropout": 0.1},
    "raw": lambda c: {"branch_norm": False},
    "drop": lambda c: {"dropout": 0.1},
}
"""What may stand after a `+`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A name and the network behind it."""

    name: str
    config: HybridConfig
    num_parameters: int


def variant_config(name: str, base: HybridConfig) -> HybridConfig:
    """The configuration of `name`, sizes as in `base`. Raises BadConfig for an unknown part."""
    first, *options = name.split("+")
    known = {key.lower(): key for key in BASES}
    if first.lower() not in known:
        near = get_close_matches(first.lower(), known, n=1)
        raise BadConfig(
            f"There is no variant `{first}`. "
            + (f"Did you mean `{known[near[0]]}`? " if near else "")
            + f"Use one of {', '.join(BASES)}."
        )
    config = replace(base, **BASES[known[first.lower()]])
    for option in options:
        if option not in OPTIONS:
            raise BadConfig(
                f"There is no option `+{option}`. Use one of +{', +'.join(OPTIONS)}, or none."
            )
        config = replace(config, **OPTIONS[option](config))
    return config


def equal_variants(
    names: Sequence[str], base: HybridConfig, *, tolerance: float = TOLERANCE
) -> list[Variant]:
    """Each name with as many parameters as the first one at the sizes of `base`.

    Raises BadConfig for an unknown or repeated name, and where a variant cannot be brought within
    `tolerance` of the first: in a small network one step of the feed-forward width is too coarse.
    """
    if not names:
        raise BadConfig("No variant is named. Name some, such as `GF-MH,HY,CP`.")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise BadConfig(f"{', '.join(repeated)} stands there twice. Name each variant once.")
    target = num_parameters(variant_config(names[0], base))
    found = []
    for name in names:
        config = _of_size(variant_config(name, base), target)
        count = num_parameters(config)
        if abs(count - target) > tolerance * target:
            raise BadConfig(
                f"{name} has {count:,} parameters and {names[0]} {target:,}: more than "
                f"{100 * tolerance:g} % apart, and no width of the feed-forward layers is nearer. "
                "Compare larger networks, or leave it out."
            )
        found.append(Variant(name=name, config=config, num_parameters=count))
    return found


def _of_size(config: HybridConfig, target: int) -> HybridConfig:
    """The feed-forward width whose count is nearest to `target`; at least 16 channels."""
    per_step = 2 * 16 * config.d_model * config.n_layers
    wanted = config.d_ffn + 16 * round((target - num_parameters(config)) / per_step)
    return replace(config, ffn_mult=max(16, wanted) / config.d_model)
