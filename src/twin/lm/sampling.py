"""From logits to a token: temperature, cuts of the tail, penalties, bias, log-probabilities.

Owns how one token is chosen and what is told about it. Log-probabilities are the model's own,
before temperature, cuts and penalties, so that they say how sure the model was. Needs numpy alone.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from twin.lm.errors import BadConfig, BadTokens

Logits = npt.NDArray[np.float32]

GREEDY = 1e-4
"""Below this temperature the largest logit wins: dividing by less overflows for no difference."""
MAX_STOPS = 16
MAX_STOP_CHARS = 1000
MAX_TOP_LOGPROBS = 100
MAX_BIAS = 1000
"""More than any two logits differ by; what is much larger leaves no number to draw from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a text is continued. Raises BadConfig, naming the field as the OpenAI API does."""

    max_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    """Only the k likeliest; 0: all."""
    top_p: float = 1.0
    """Only the likeliest that together reach this share."""
    min_p: float = 0.0
    """Only those at least this share as likely as the likeliest."""
    repetition_penalty: float = 1.0
    """Logits of tokens already used are divided by it (multiplied where negative): CTRL,
    arXiv 1909.05858."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_window: int = 512
    """The penalties look back so many tokens of prompt and answer."""
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None
    """How many alternatives to report of each token; 0 its own alone; None no log-probabilities."""

    def __post_init__(self) -> None:
        ranges = {
            "max_tokens": (0, 10_000_000), "temperature": (0, 100), "top_k": (0, 10_000_000),
            "top_p": (0, 1), "min_p": (0, 1), "repetition_penalty": (0.01, 100),
            "presence_penalty": (-100, 100), "frequency_penalty": (-100, 100),
            "penalty_window": (0, 1_000_000), "top_logprobs": (0, MAX_TOP_LOGPROBS),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            # No float of it is made: a client may send a number that has none.
            if value is not None and not low <= value <= high:
                raise BadConfig(f"{name} is out of range. Give {low} to {high:,}.")
        if len(self.stop) > MAX_STOPS or any(
            not text or len(text) > MAX_STOP_CHARS for text in self.stop
        ):
            raise BadConfig(
                f"stop: give up to {MAX_STOPS} texts of 1 to {MAX_STOP_CHARS} characters."
            )
        if any(not -MAX_BIAS <= bias <= MAX_BIAS for bias in self.logit_bias.values()):
            raise BadConfig(f"logit_bias is out of range. Give {-MAX_BIAS} to {MAX_BIAS:,}.")

    @property
    def uses_history(self) -> bool:
        """Whether tokens already used change what comes next."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One chosen token."""

    token: int
    logprob: float | None
    """Natural logarithm; None where nobody asked."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens with theirs, the likeliest first."""


def choose(
    logits: Logits, sampling: Sampling, seed: int, place: int, history: npt.NDArray[np.int64]
) -> Drawn:
    """The token after `history` (prompt and answer so far); `place` counts the answer's tokens.

    The same seed, place and logits give the same token, whatever else is going on. Raises
    BadTokens where the model says no number (NaN), or where no token is left to choose.
    """
    if not np.isfinite(logits.max()):
        raise BadTokens(
            "The model answers with something that is no number. Its weights are damaged or its "
            "training diverged: run `twin lm gate` on it."
        )
    adjusted = _penalized(logits.astype(np.float64), sampling, history)
    for token, bias in sampling.logit_bias.items():
        if 0 <= token < len(adjusted):
            adjusted[token] += bias
    if not np.isfinite(adjusted.max()):
        raise BadTokens("No token is left to choose. Ask for milder penalties or biases.")
    if sampling.temperature < GREEDY:
        token = int(adjusted.argmax())
    else:
        kept = _cut(adjusted / sampling.temperature, sampling)
        token = draw(kept, 1.0, uniform(seed, place))
    if sampling.top_logprobs is None:
        return Drawn(token=token, logprob=None)
    return _told(logits, token, sampling.top_logprobs)


def draw(logits: npt.NDArray[np.floating], temperature: float, u: float) -> int:
    """The token whose part of the cumulative distribution holds `u`, 0 <= u < 1; the likeliest at
    temperature 0. The native engine's rule."""
    best = int(np.argmax(logits))
    if temperature <= 0:
        return best
    weights = np.exp((logits.astype(np.float64) - float(logits[best])) / temperature)
    cumulative = np.cumsum(weights)
    token = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
    return min(token, len(logits) - 1)


def uniform(seed: int, place: int) -> float:
    """The place-th number of a seed in [0, 1): splitmix64, as in the native engine. Without a
    state, so that streams can join and leave a batch and still draw the same."""
    mask = (1 << 64) - 1
    z = (seed + (place + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def log_softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Natural logarithms of probabilities, along the last axis."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    shifted: npt.NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return shifted


def _penalized(
    logits: npt.NDArray[np.float64], sampling: Sampling, history: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    if not (sampling.uses_history and sampling.penalty_window and len(history)):
        return logits
    used, counts = np.unique(history[-sampling.penalty_window :], return_counts=True)
    of_used = logits[used]
    by = sampling.repetition_penalty
    of_used = np.where(of_used > 0, of_used / by, of_used * by)
    logits[used] = of_used - sampling.presence_penalty - sampling.frequency_penalty * counts
    return logits


def _cut(logits: npt.NDArray[np.float64], sampling: Sampling) -> npt.NDArray[np.float64]:
    """The tail set to minus infinity; the likeliest token always stays."""
    if sampling.min_p > 0:
        logits = np.where(logits >= logits.max() + math.log(sampling.min_p), logits, -np.inf)
    if 0 < sampling.top_k < len(logits):
        # By rank, not by value: of equal logits the first stay, so that k is k.
        kept = np.argsort(-logits, kind="stable")[: sampling.top_k]
        cut = np.full_like(logits, -np.inf)
        cut[kept] = logits[kept]
        logits = cut
    if sampling.top_p < 1:
        order = np.argsort(-logits, kind="stable")
        share = np.cumsum(np.exp(log_softmax(logits))[order])
        count = int(np.searchsorted(share, sampling.top_p)) + 1
        cut = np.full_like(logits, -np.inf)
        cut[order[:count]] = logits[order[:count]]
        logits = cut
    return logits


def _told(logits: Logits, token: int, count: int) -> Drawn:
    logprobs = log_softmax(logits)
    count = min(count, len(logprobs))
    best = np.argpartition(-logprobs, count - 1)[:count] if count else np.empty(0, np.int64)
    best = best[np.argsort(-logprobs[best], kind="stable")]
    return Drawn(
        token=token,
        logprob=float(logprobs[token]),
        top=tuple((int(other), float(logprobs[other])) for other in best),
    )
