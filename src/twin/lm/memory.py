"""What a training step will take in memory, foreseen before it starts.

Owns the estimate and the refusal. The estimate of activations is a fit to measured peaks, not a
law: it is meant to catch what is too large by far before the machine begins to swap.
"""

import os
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
VALIDATED_AT_ONCE: Final = 32
"""Streams in a validation, at most."""
_BASE: Final = 400 << 20
"""Python and torch themselves."""


def training_bytes(config: HybridConfig, batch: int, window: int, kernels: str = "") -> int:
    """Peak of one process that trains on batches of `batch` windows of `window` tokens."""
    tokens = batch * window
    d, f = config.d_model, config.d_ffn
    widths = 5 * d + 2 * f
    if config.has_rwkv:
        widths += 4 * d + config.decay_rank + 8 * d
    if config.has_mamba:
        widths += config.d_inner * 6 + config.d_state * 4
    per_token = config.n_layers * widths + 3 * config.vocab_size
    kept = _KEPT.get(kernels, _KEPT_OTHERWISE) * tokens * per_token
    kept += _PER_RECENT * max(batch, VALIDATED_AT_ONCE) * config.num_recent
    return int(_BASE + _PER_PARAMETER * num_parameters(config) + kept)


def available_bytes() -> int | None:
    """What this process may still take: of the machine's memory and of its control group's limit;
    None where neither is known."""
    found = [value for value in (_free(), _left_in_group()) if value is not None]
    return min(found) if found else None


def foresee(
    config: HybridConfig, batch: int, window: int, *, available: int | None, kernels: str = ""
) -> int:
    """The estimate in bytes. Raises NotEnoughMemory, with a batch that fits, where it is more than
    is available."""
    needed = training_bytes(config, batch, window, kernels)
    if available is None or needed <= available:
        return needed
    rows = batch
    while rows > 1 and training_bytes(config, rows, window, kernels) > available:
        rows //= 2
    fits = training_bytes(config, rows, window, kernels) <= available
    cure = f"`--batch {rows}`" if fits else "a smaller preset or `--window`"
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
