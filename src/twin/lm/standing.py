"""How a training run stands and how it ended, as records; its clock and what it adds up meanwhile.

Owns no training: `pretrain` fills these in, and whoever watches a run reads them.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

from twin.lm.optim import GradientNorms


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a run stands, as told to whoever watches."""

    step: int
    progress: float
    """Share of the budget that is spent."""
    seconds: float
    eta_s: float
    tokens: int
    tokens_per_s: float
    loss: float
    validation: float | None
    lr: float
    """Multiplier of the highest learning rates."""
    gradient_norm: float
    gradient_ratio: float | None
    state_entropy: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a run ended."""

    folder: Path
    finished: bool
    """Whether the budget was spent; else `verdict` says what ended it."""
    verdict: str
    warnings: tuple[str, ...]
    parameters: int
    kernels: str
    precision: str
    step: int
    tokens: int
    epochs: float
    seconds: float
    """On the run's clock."""
    tokens_per_s: float
    """Of training alone, without the validations in between."""
    saved: bool
    """Whether a model is in the folder: not where no loss was ever a number."""
    model_step: int
    """The step that the saved model, and every figure below but `train_loss`, is of."""
    train_loss: float
    """Mean over the last steps."""
    validation: float
    """Nats per token over the whole held-out part, in windows without a past."""
    validation_carried: float
    """The same with the state carried on."""
    bits_per_byte: float
    bits_per_byte_carried: float
    averaged: bool
    """Whether the running average of the weights was better, and is what was saved."""


def silent(status: Status) -> None:
    """Tells nobody."""


@dataclass(slots=True)
class Clock:
    """Seconds of a run, over all its interruptions."""

    before: float = 0.0
    _started: float = field(default_factory=time.perf_counter)

    def start(self) -> None:
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self._started


@dataclass(slots=True)
class Means:
    """Of the steps since the last report."""

    losses: list[float] = field(default_factory=list)
    norms: list[GradientNorms] = field(default_factory=list)

    def ratio(self) -> float | None:
        found = [norms.ratio for norms in self.norms if norms.ratio is not None]
        return sum(found) / len(found) if found else None
