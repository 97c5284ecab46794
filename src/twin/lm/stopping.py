"""When a training run is stopped: rules on what it shows, each with a sentence.

Owns thresholds and the little that must be remembered. The loop asks after every step and every
validation; the answer is a reason or nothing. Thresholds are the specification's.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final

import torch
from torch import Tensor

MAX_BAD_STEPS: Final = 3
"""Losses or gradients in a row that are no numbers."""
WARN_RISE: Final = 0.05
STOP_RISE: Final = 0.10
"""Share by which the validation loss lies above its best while the training loss falls."""
MAX_OSCILLATION: Final = 0.5
"""Nats by which the loss rises again within the last LOSSES, in means of TEN."""
LOSSES: Final = 100
TEN: Final = 10
RATIOS: Final = (0.1, 10.0)
MIN_STATE_ENTROPY: Final = 0.3
"""Of the state's singular values, 1 being all equal: below it, one direction is left."""
SETTLED: Final = 100
"""Steps after which pathways are comparable; at the start RWKV's gradient is a tenth of Mamba's."""


@dataclass(slots=True, kw_only=True)
class StopRules:
    """Mutable: remembers the last losses. `to_dict` and `restore` keep it over an interruption."""

    warmup_over: float = 0.1
    """Progress before which nothing is judged but numbers that are none."""
    bad_steps: int = 0
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=LOSSES))
    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=LOSSES))
    best_validation: float = math.inf
    train_at_best: float = math.inf
    warnings: list[str] = field(default_factory=list)

    def bad_step(self) -> str | None:
        """A step whose loss or gradient is no number was left out."""
        self.bad_steps += 1
        if self.bad_steps < MAX_BAD_STEPS:
            return None
        return (
            f"{self.bad_steps} steps in a row had a loss or gradient that is no number. Lower "
            "`matrix_lr` and `lr`, or raise `warmup`."
        )

    def good_step(self, step: int, progress: float, loss: float, ratio: float | None) -> str | None:
        self.bad_steps = 0
        if progress < self.warmup_over or step < SETTLED:
            return None  # what belongs to the warm-up is not judged later either
        self.losses.append(loss)
        if ratio is not None:
            self.ratios.append(ratio)
        return self._oscillates() or self._unbalanced()

    def _oscillates(self) -> str | None:
        if len(self.losses) < LOSSES:
            return None
        values = list(self.losses)
        means = [fmean(values[at : at + TEN]) for at in range(0, LOSSES, TEN)]
        # Rises alone: a loss that falls, however steeply at first, does not swing.
        swing, lowest = 0.0, means[0]
        for mean in means[1:]:
            swing, lowest = max(swing, mean - lowest), min(lowest, mean)
        if swing <= MAX_OSCILLATION:
            return None
        return (
            f"The training loss swings by {swing:.2f} nats (more than {MAX_OSCILLATION}). Lower "
            "the learning rates, or make `batch` larger."
        )

    def _unbalanced(self) -> str | None:
        if len(self.ratios) < LOSSES:
            return None
        ratio = fmean(self.ratios)
        low, high = RATIOS
        if low <= ratio <= high:
            return None
        starved, other = ("RWKV", "mamba_lr") if ratio < low else ("Mamba", "rwkv_lr")
        return (
            f"The gradient of RWKV is {ratio:.2g} times Mamba's (outside {low} to {high}): "
            f"{starved} learns next to nothing. Lower `{other}`, or use `branch_norm`."
        )

    def validation(self, value: float, train: float, entropy: float | None) -> str | None:
        """After a validation: its loss, the training loss of the same time, the state's entropy."""
        if value < self.best_validation:
            self.best_validation, self.train_at_best = value, train
        elif train < self.train_at_best:
            rise = value / self.best_validation - 1.0
            if rise > STOP_RISE:
                return (
                    f"The validation loss is {rise:.0%} above its best while the training loss "
                    "falls: it learns the text by heart. The best model is kept; use more text, "
                    "`dropout` or a smaller preset."
                )
            if rise > WARN_RISE:
                self.warnings.append(
                    f"The validation loss is {rise:.0%} above its best while the training loss "
                    "falls."
                )
        if entropy is not None and entropy < MIN_STATE_ENTROPY:
            return (
                f"The recurrent state has an entropy of {entropy:.2f} (below {MIN_STATE_ENTROPY}): "
                "one direction is left of it. Lower the learning rates."
            )
        return None

    def to_dict(self) -> dict[str, Any]:
        return {
            "bad_steps": self.bad_steps,
            "losses": list(self.losses),
            "ratios": list(self.ratios),
            "best": [self.best_validation, self.train_at_best],
            "warnings": self.warnings,
        }

    def restore(self, values: dict[str, Any]) -> None:
        self.bad_steps = values["bad_steps"]
        self.losses.extend(values["losses"])
        self.ratios.extend(values["ratios"])
        self.best_validation, self.train_at_best = values["best"]
        self.warnings = list(values["warnings"])


@torch.no_grad()
def state_entropy(matrices: list[Tensor]) -> float | None:
    """Entropy of the singular values of recurrent states, over its largest possible value.

    Each tensor is (..., K, V). Mean over all of them; None where there is none or all are zero.
    """
    found = []
    for matrix in matrices:
        values = torch.linalg.svdvals(matrix.float().flatten(0, -3))
        total = values.sum(-1, keepdim=True)
        share = values[total[..., 0] > 0] / total[total[..., 0] > 0]
        if len(share):
            entropy = -(share * share.clamp(min=1e-12).log()).sum(-1)
            found.append(entropy / math.log(values.shape[-1]))
    return float(torch.cat(found).mean()) if found else None
