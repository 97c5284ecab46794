"""What a gate says: pass, warn, fail or not yet, with the figure, the threshold and a sentence.

Owns the record and the arithmetic of bands. Measures nothing (`diagnostics`, `state_health`), knows
no gate (`gates` does) and shows nothing (`report`).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Grade = Literal["pass", "warn", "fail", "not yet"]
"""`not yet`: what the check needs is not there; it neither passes nor fails."""

_SEVERITY: dict[Grade, int] = {"not yet": 0, "pass": 1, "warn": 2, "fail": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One check of one gate."""

    gate: str
    """`G0` ... `G5`."""
    check: str
    """What was looked at: `gradient norm`, `state cosine, layer 2, rwkv` ..."""
    grade: Grade
    value: float | None
    """The figure that was judged; None where there is none."""
    thresholds: str
    """The bands in words, such as `pass 0.5 to 1.5, warn to 5`."""
    sentence: str
    """What it means, and where it is no pass, what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A range that passes inside a wider one that warns; beyond it fails. Bounds belong to the
    inner range. Infinite bounds are left out of the text."""

    pass_from: float = -math.inf
    pass_to: float = math.inf
    warn_from: float = -math.inf
    warn_to: float = math.inf
    unit: str = ""

    def grade(self, value: float) -> Grade:
        """NaN fails: what cannot be measured is not healthy."""
        if self.pass_from <= value <= self.pass_to:
            return "pass"
        return "warn" if self.warn_from <= value <= self.warn_to else "fail"

    def __str__(self) -> str:
        inner = _range(self.pass_from, self.pass_to)
        outer = _range(self.warn_from, self.warn_to)
        text = f"pass {inner}; " + (f"warn {outer}, else fail" if outer else "warn otherwise")
        return text + (f" ({self.unit})" if self.unit else "")


def worst(verdicts: Iterable[Verdict]) -> Grade:
    """The one word over all checks; `not yet` only where nothing was judged at all."""
    return max((one.grade for one in verdicts), key=_SEVERITY.__getitem__, default="not yet")


def _range(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return ""
    if math.isinf(low):
        return f"up to {high:.4g}"
    if math.isinf(high):
        return f"from {low:.4g}"
    return f"{low:.4g} to {high:.4g}"
