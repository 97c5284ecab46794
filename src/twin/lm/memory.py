"""What a training step will take in memory, foreseen before it starts.

Owns the estimate and the refusal. The estimate of activations is a fit to measured peaks, not a
law: it is meant to catch what is too large by far before the machine begins to swap.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from twin.lm.config import HybridConfig, num_parameters
from twin.lm.errors import NotEnoughMemory

GIB: Final = 1 << 30
_PER_PARAMETER: Final = 4 * 5
"""Bytes: weight, gradient, momentum (AdamW: two), average, and one copy while a step is made."""
_KEPT: Final = {"native": 4 * 1.3}
_KEPT_OTHERWISE: Final = 4 * 3.6
"""Bytes kept per activation, by kernels: the value and what its gradient takes on the way back.
Measured at 5M parameters, 16 x 256 tokens: 1.16 GiB with native kernels, 2.54 with chunked."""
_PER_RECENT: Final = 28
"""Bytes for each token that a stream remembers, while it is joined with what is read."""
_PER_TARGET: Final = 4 * 1.3
"""Bytes per token and symbol of what teachers expect, which is kept for the way back. Measured with
8,000 symbols, 16 x 256 tokens: one teacher 0.15 GiB more than none, three 0.18."""
VALIDATED_AT_ONCE: Final = 32
"""Streams in a validation, at most."""
_BASE: Final = 400 << 20
"""Python and torch themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one process takes part in: `batch` windows of `window` tokens a step."""

    config: HybridConfig
    batch: int
    window: int
    kernels: str = ""
    teachers: tuple[HybridConfig, ...] = ()
    sharing: int = 1
    """Processes that have the weights together."""


def training_bytes(step: Step) -> int:
    """Peak of the process."""
    config, batch, window = step.config, step.batch, step.window
    tokens = batch * window
    d, f = config.d_model, config.d_ffn
    widths = 5 * d + 2 * f
    if config.has_rwkv:
        widths += 4 * d + config.decay_rank + 8 * d
    if config.has_mamba:
        widths += config.d_inner * 6 + config.d_state * 4
    per_token = config.n_layers * widths + 3 * config.vocab_size
    kept = _KEPT.get(step.kernels, _KEPT_OTHERWISE) * tokens * per_token
    kept += _PER_RECENT * max(batch, VALIDATED_AT_ONCE) * config.num_recent
    if step.teachers:
        kept += _PER_TARGET * tokens * config.vocab_size
        kept += sum(4 * num_parameters(teacher) for teacher in step.teachers)
    weights = _PER_PARAMETER * num_parameters(config) / step.sharing
    return int(_BASE + weights + kept)


def available_bytes() -> int | None:
    """What this process may still take: of the machine's memory and of its control group's limit;
    None where neither is known."""
    found = [value for value in (_free(), _left_in_group()) if value is not None]
    return min(found) if found else None


def foresee(step: Step, *, available: int | None, world: int = 1) -> int:
    """The estimate in bytes. Raises NotEnoughMemory, with a batch for all `world` processes that
    fits, where it is more than is available to each."""
    needed = training_bytes(step)
    if available is None or needed <= available:
        return needed
    rows = step.batch
    while rows > 1 and training_bytes(replace(step, batch=rows)) > available:
        rows //= 2
    fits = training_bytes(replace(step, batch=rows)) <= available
    cure = f"`--batch {rows * world}`" if fits else "a smaller preset or `--window`"
    raise NotEnoughMemory(
        f"Training would take about {needed / GIB:.1f} GiB and {available / GIB:.1f} GiB are free. "
        f"Use {cure}, or free some memory."
    )


def _free() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _left_in_group() -> int | None:
    """Of the control group (version 2): its limit without what is in use and cannot be dropped."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        about = (group / "memory.stat").read_text(encoding="ascii").split()
        cached = int(about[about.index("inactive_file") + 1])
        return None if limit == "max" else max(0, int(limit) - used + cached)
    except (OSError, ValueError):
        return None
