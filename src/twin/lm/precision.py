"""Which number format the matrix products use, and where that is decided.

bfloat16 pays on a GPU, where the processor has matrix units for it (AMX: about ten times float32)
and on AMD's with AVX512-BF16 (Zen 5: 430 GFLOP/s a core against 88 in torch's float32; a training
step 2.7 times as fast). On Intel's AVX512-BF16 alone does not: 85 against 150. AVX512-FP16 does
there: 280, by products of the native kernels' own (`Kernels.linear`), which take and give float32.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Final, Literal

import torch

from twin.lm import processor
from twin.lm.errors import KernelUnavailable

Precision = Literal["auto", "bf16", "fp16", "fp32"]
Chosen = Literal["bf16", "fp16", "fp32"]
FORMATS: Final[dict[Chosen, torch.dtype]] = {
    "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32
}  # fmt: skip


def has_fast_bf16() -> bool:
    """Whether this processor multiplies bfloat16 matrices much faster than float32."""
    flags = processor.flags()
    return "amx_bf16" in flags or (processor.vendor() == "AuthenticAMD" and "avx512_bf16" in flags)


def has_fp16() -> bool:
    """Whether this processor multiplies and adds vectors of half precision (AVX512-FP16)."""
    return "avx512_fp16" in processor.flags()


def choose_precision(
    device: torch.device, precision: Precision = "auto", *, has_half: bool = True
) -> Chosen:
    """What is used here. `has_half` are the kernels' (`Kernels.has_half`): give it to know what
    they do, leave it to know what they are asked for. Raises KernelUnavailable for fp16 by name
    where it cannot be had."""
    can = has_half and device.type == "cpu" and has_fp16()
    if precision == "auto":
        if device.type == "cuda" or has_fast_bf16():
            return "bf16"
        return "fp16" if can else "fp32"
    if precision == "fp16" and not can:
        raise KernelUnavailable(
            "The precision fp16 needs a CPU with AVX512-FP16 and the native kernels. Use auto."
        )
    return precision


def compute_dtype(device: torch.device, precision: Precision = "auto") -> torch.dtype:
    """What activations are in: torch.bfloat16 or torch.float32 (for fp16 too)."""
    return torch.bfloat16 if choose_precision(device, precision) == "bf16" else torch.float32


_in_half: ContextVar[bool] = ContextVar("_in_half", default=False)


def is_half() -> bool:
    """Whether float32 products may be done in half precision here."""
    return _in_half.get()


@contextmanager
def _half(allowed: bool) -> Iterator[None]:
    token = _in_half.set(allowed)
    try:
        yield
    finally:
        _in_half.reset(token)


def autocast(device: torch.device, precision: Precision = "auto") -> AbstractContextManager[object]:
    """The context in which a forward pass runs. Outside of one, products are in float32."""
    chosen = choose_precision(device, precision)
    if chosen == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return _half(chosen == "fp16")


def activation_dtype(x: torch.Tensor) -> torch.dtype:
    """What a norm hands to the matrix product after it: autocast's type, or `x`'s own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
