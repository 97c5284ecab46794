"""How surprising a text is to a model: bits per token and line, and the lines that stand out.

Owns the arithmetic and the verdict on lines; the picture is `heatmap`'s, where the text comes from
is the caller's. A line is compared with other lines, never with a fixed number: what is usual
differs from file to file.
"""

import dataclasses
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from twin.lm.errors import BadTokens
from twin.lm.generate import first_token

if TYPE_CHECKING:
    from twin.lm.model import HybridLM
    from twin.lm.tokenizer import Tokenizer

CHUNK = 1024
"""Tokens scored at once: bounds the memory that logits take."""
MAX_BYTES = 2_000_000
"""A larger file is data, or generated; it would take minutes."""
_SNIFF = 8192  # git's own test for "binary": a NUL among the first bytes

PRIOR_BYTES = 16
"""A short line is pulled towards the usual, as if it had so many usual bytes more: three strange
characters alone prove little."""
MIN_BASELINE = 20
"""With fewer other lines nothing is called unusual."""
UNUSUAL_SHARE = 0.95
UNUSUAL_Z = 2.0
_MAD = 1.4826  # makes the median absolute deviation of a normal distribution its sd
_LEAST_SPREAD = 0.05  # bits per byte; lines that are all alike would make any other infinitely odd


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredToken:
    """A token where it stands."""

    text: str
    bits: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredLine:
    """One line, and how it compares with the others."""

    number: int
    """Counted from 1."""
    text: str
    tokens: tuple[ScoredToken, ...]
    bits: float
    """Of all its tokens, the line's end included."""
    num_bytes: int
    bits_per_byte: float
    z: float | None = None
    """Robust standard deviations above the median of the baseline; None where there is too little
    to compare with, and for blank lines."""
    percentile: float | None = None
    """Share of the baseline's lines that are less surprising."""
    is_added: bool = False

    @property
    def is_unusual(self) -> bool:
        return (
            self.z is not None
            and self.percentile is not None
            and self.z >= UNUSUAL_Z
            and self.percentile >= UNUSUAL_SHARE
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredText:
    """A file, scored."""

    name: str
    lines: tuple[ScoredLine, ...]
    num_tokens: int
    num_bytes: int
    bits: float
    num_unknown: int
    """Symbols that the model's vocabulary lacks; they were read as its replacement."""

    @property
    def bits_per_byte(self) -> float:
        return self.bits / self.num_bytes if self.num_bytes else 0.0

    def worst(self, count: int, *, added_only: bool = False) -> list[ScoredLine]:
        """The lines that stand out most, the most unusual first."""
        lines = [line for line in self.lines if line.text.strip()]
        if added_only:
            lines = [line for line in lines if line.is_added]
        return sorted(lines, key=lambda line: (-(line.z or 0.0), -line.bits_per_byte))[:count]


def score_text(
    model: "HybridLM", tokenizer: "Tokenizer", data: bytes, name: str = "",
    added: Collection[int] = (), baseline: Sequence[float] = (),
) -> ScoredText:  # fmt: skip
    """Scores a file's bytes, each token in the context of all that is before it.

    `added`: numbers of the lines that are new; they are compared with the others, and the others
    with themselves. `baseline`: bits per byte of further lines to compare with (see
    `line_surprisals`). Raises BadTokens for a binary or huge file, and where the model says no
    number (NaN).
    """
    if b"\0" in data[:_SNIFF]:
        raise BadTokens(f"{name or 'This'} is binary. Give a file of text.")
    if len(data) > MAX_BYTES:
        raise BadTokens(
            f"{name or 'This'} has {len(data):,} bytes, more than the {MAX_BYTES:,} that are "
            "scored. Give a part of it."
        )
    data = data.replace(b"\r\n", b"\n")
    tokens = np.asarray(tokenizer.encode_bytes(data), np.int64)
    bits = surprisals(model, tokens, first_token(tokenizer))
    if not np.isfinite(bits).all():
        raise BadTokens(
            "The model answers with something that is no number. Its weights are damaged or its "
            "training diverged: run `twin lm gate` on it."
        )
    rows = _lines(tokenizer, tokens, bits)
    return ScoredText(
        name=name, lines=_judged(_as_lines(rows, set(added)), baseline),
        num_tokens=len(tokens), num_bytes=len(data),
        bits=float(bits.sum()), num_unknown=_num_unknown(tokenizer, data),
    )  # fmt: skip


def is_text(data: bytes) -> bool:
    """Whether `score_text` would take it."""
    return b"\0" not in data[:_SNIFF] and len(data) <= MAX_BYTES


def compare_again(scored: ScoredText, baseline: Sequence[float]) -> ScoredText:
    """The same lines, compared with further ones too (see `line_surprisals`)."""
    return dataclasses.replace(scored, lines=_judged(scored.lines, baseline))


def surprisals(
    model: "HybridLM", tokens: npt.NDArray[np.int64], before: int
) -> npt.NDArray[np.float64]:
    """Bits of each token after all before it; `before` stands in front of the first."""
    import torch

    fed = np.concatenate([[before], tokens[:-1]]) if len(tokens) else tokens
    device = model.embed.weight.device
    found, state = [], None
    model.eval()
    with torch.no_grad():
        for begin in range(0, len(tokens), CHUNK):
            part = torch.from_numpy(fed[begin : begin + CHUNK]).to(device)
            wanted = torch.from_numpy(tokens[begin : begin + CHUNK]).to(device)
            logits_BTX, state = model(part[None], state)
            nats = torch.nn.functional.cross_entropy(logits_BTX[0], wanted, reduction="none")
            found.append(nats.double().cpu().numpy() / math.log(2))
    return np.concatenate(found) if found else np.empty(0)


def line_surprisals(scored: ScoredText) -> list[float]:
    """Bits per byte of the lines that are neither blank nor new: a baseline for other texts."""
    return [line.bits_per_byte for line in scored.lines if line.text.strip() and not line.is_added]


def _lines(
    tokenizer: "Tokenizer", tokens: npt.NDArray[np.int64], bits: npt.NDArray[np.float64]
) -> list[list[tuple[bytes, float]]]:
    """Tokens by line; one that spans lines belongs to where it begins."""
    rows: list[list[tuple[bytes, float]]] = [[]]
    for token, cost in zip(tokens, bits, strict=True):
        data = tokenizer.token_bytes(int(token))
        rows[-1].append((data, float(cost)))
        rows += [[] for _ in range(data.count(b"\n"))]
    if len(rows) > 1 and not rows[-1]:
        rows.pop()  # nothing stands behind the last line's end
    return rows


def _as_lines(rows: list[list[tuple[bytes, float]]], added: set[int]) -> list[ScoredLine]:
    lines = []
    for number, row in enumerate(rows, start=1):
        text, total = b"".join(data for data, _ in row), sum(cost for _, cost in row)
        lines.append(
            ScoredLine(
                number=number,
                text=text.decode("utf-8", "replace").rstrip("\n"),
                tokens=tuple(ScoredToken(text=said, bits=cost) for said, cost in _decoded(row)),
                num_bytes=len(text),
                bits=total,
                bits_per_byte=total / max(len(text), 1),
                is_added=number in added,
            )
        )
    return lines


def _judged(lines: Sequence[ScoredLine], baseline: Sequence[float]) -> tuple[ScoredLine, ...]:
    """The lines with their place among those that are not new, and the further ones."""
    own = [line.bits_per_byte for line in lines if line.text.strip() and not line.is_added]
    usual = np.sort(np.array([*own, *baseline]))
    if len(usual) < MIN_BASELINE:
        return tuple(lines)
    middle = float(np.median(usual))
    spread = max(_MAD * float(np.median(np.abs(usual - middle))), _LEAST_SPREAD)
    judged = []
    for line in lines:
        if line.text.strip():
            pulled = (line.bits + PRIOR_BYTES * middle) / (line.num_bytes + PRIOR_BYTES)
            share = float(np.searchsorted(usual, pulled) / len(usual))
            line = dataclasses.replace(line, z=(pulled - middle) / spread, percentile=share)
        judged.append(line)
    return tuple(judged)


def _decoded(row: list[tuple[bytes, float]]) -> list[tuple[str, float]]:
    """Text of each token; the bytes of one character are put together, their bits added."""
    found: list[tuple[str, float]] = []
    held, cost = b"", 0.0
    for data, bits in row:
        held, cost = held + data, cost + bits
        try:
            found.append((held.decode("utf-8"), cost))
        except UnicodeDecodeError as error:
            if error.end < len(held) or len(held) > 64:  # damaged, not merely unfinished
                found.append((held.decode("utf-8", "replace"), cost))
            else:
                continue
        held, cost = b"", 0.0
    if held:
        found.append((held.decode("utf-8", "replace"), cost))
    return found


def _num_unknown(tokenizer: "Tokenizer", data: bytes) -> int:
    known = getattr(tokenizer, "symbols", None)
    if known is None:
        return 0
    text, symbols = data.decode("utf-8", "replace"), set(known)
    return sum(symbol not in symbols for symbol in text)
