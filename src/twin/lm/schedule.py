"""The learning rate and the length of the windows as functions of progress, a number in [0, 1].

Progress is the share of the budget that is spent: of the clock, of the steps or of the tokens. So
one schedule fits every budget, and a run that was interrupted goes on where its clock stood. Owns
no clock and no optimizer.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

Shape = Callable[[float, float], float]
"""(progress after the warm-up, share of the decay) -> multiplier before the floor; both [0, 1]."""


def _cosine(progress: float, decay: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _stable_then_linear(progress: float, decay: float) -> float:
    """Warm-up, stable, decay (WSD, MiniCPM 2024): a run can be lengthened without a new start."""
    return min(1.0, (1.0 - progress) / decay) if decay > 0 else 1.0


def _linear(progress: float, decay: float) -> float:
    return 1.0 - progress


def _constant(progress: float, decay: float) -> float:
    return 1.0


SHAPES: Final[dict[str, Shape]] = {
    "cosine": _cosine,
    "wsd": _stable_then_linear,
    "linear": _linear,
    "constant": _constant,
}


def multiplier(
    shape: str, progress: float, *, warmup: float, decay: float = 0.3, floor: float = 0.0
) -> float:
    """What the highest learning rate is multiplied by.

    `warmup`: the share of the budget over which it rises from nothing; `decay`: the share over
    which `wsd` falls; `floor`: what is left of it at the end. Progress beyond 1 counts as 1.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return progress / warmup
    after = (progress - warmup) / (1.0 - warmup) if warmup < 1 else 1.0
    share = decay / (1.0 - warmup) if warmup < 1 else 1.0
    return floor + (1.0 - floor) * SHAPES[shape](after, share)


def stage(stages: Sequence[tuple[float, int]], progress: float, window: int) -> int:
    """How many tokens a window has now: the first stage whose end lies ahead, else `window`.

    Stages are (progress at which it ends, window), in order. Short windows first spend the early
    steps, which learn spelling, on cheaper gradients.
    """
    return next((length for end, length in stages if progress < end), window)
