"""WKV-6 by flash-linear-attention's Triton kernels, behind our seam and only after a test.

Its chunked kernels are fast on long sequences of few heads. Known of them: wrong gradients of gated
kernels on Hopper GPUs with Triton 3.4 to 3.7.0 (its issues 640 and 983, which name others than
this one), NaN gradients of RWKV-6 before January 2025 (77). Therefore the kernels are compared
with the float64 loops on the very GPU they will run on, and refused where they disagree. They
multiply in TensorFloat-32: about three digits. The SSD is not taken from it; `chunked` does that.
"""

from typing import Any

import torch
from torch import Tensor

from twin.lm.errors import KernelUnavailable
from twin.lm.kernels.chunked import Chunked
from twin.lm.kernels.composed import wide


class FlaKernels(Chunked):
    """Raises KernelUnavailable where the package or a GPU lacks, or where its results are wrong."""

    name = "fla"

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise KernelUnavailable(
                "The kernels `fla` need a GPU and torch sees none. Use the kernels `auto`."
            )
        try:
            from fla.ops.rwkv6 import chunk_rwkv6
        except ImportError as error:
            raise KernelUnavailable(
                f"The kernels `fla` need the package flash-linear-attention ({error}). Install it "
                "with `pip install flash-linear-attention`, or use the kernels `auto`."
            ) from error
        self._recurrence: Any = chunk_rwkv6
        _refuse_if_wrong(self)

    def wkv6(
        self, r_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, logw_BTHK: Tensor, u_HK: Tensor,
        state_BHKV: Tensor, *, logw_min: float | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        given = (r_BTHK, k_BTHK, v_BTHV, logw_BTHK, u_HK, state_BHKV)
        if not r_BTHK.is_cuda or r_BTHK.shape[1] == 0 or r_BTHK.dtype == torch.float64:
            return super().wkv6(*given, logw_min=logw_min)
        out, state = self._recurrence(
            r_BTHK, k_BTHK, v_BTHV, logw_BTHK, u_HK,
            scale=1.0, initial_state=wide(state_BHKV), output_final_state=True,
        )  # fmt: skip
        return out, state


def _refuse_if_wrong(kernels: FlaKernels) -> None:
    from twin.lm.kernels import selfcheck

    try:
        rows = selfcheck.check(
            kernels, torch.device("cuda"), ops=("wkv6",), precisions=("float32", "bfloat16")
        )
    except Exception as error:  # Whatever its compiler raises means that it cannot be used here.
        raise KernelUnavailable(
            f"The kernels `fla` fail on this GPU ({error}). Use the kernels `auto`."
        ) from error
    for row in rows:
        if not row.passed:
            raise KernelUnavailable(
                f"The kernels `fla` are wrong on this GPU: {row.op} in {row.precision} is off by "
                f"{row.error:.1e} at {row.worst}. Use the kernels `auto`."
            )
