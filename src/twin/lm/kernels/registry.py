"""The seam: what a backend computes, which backends there are, and which one runs here.

Owns the choice and its reason. A further backend is an entry in BACKENDS.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from twin.lm.errors import KernelUnavailable


class Kernels(Protocol):
    """Everything that the network computes.

    Shapes as in `twin.lm.config`; P alone is the width of a projection. Recurrent states and
    everything inside are float32 (float64 for float64 inputs), whatever the activations are.
    """

    name: str
    has_half: bool
    """Whether `linear` can use half precision (AVX512-FP16)."""

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """x (..., K) times weight (N, K) transposed, in the precision in force."""
        ...

    def wkv6(
        self,
        r_BTHK: Tensor,
        k_BTHK: Tensor,
        v_BTHV: Tensor,
        logw_BTHK: Tensor,
        u_HK: Tensor,
        state_BHKV: Tensor,
        *,
        logw_min: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """RWKV-6's recurrence (arXiv 2404.05892, eq. 19): o_BTHV and the final state.

        o_t = r_t (S_{t-1} + diag(u) k_t v_t^T);  S_t = diag(exp(logw_t)) S_{t-1} + k_t v_t^T.
        `logw_min` promises that no log decay lies below it, which lets some backends be faster.
        """
        ...

    def ssd(
        self, x_BTMP: Tensor, loga_BTM: Tensor, b_BTN: Tensor, c_BTN: Tensor, state_BMPN: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mamba-2's state-space dual (arXiv 2405.21060, eq. 1): y_BTMP and the final state.

        S_t = exp(loga_t) S_{t-1} + x_t B_t^T;  y_t = S_t C_t, with x already times dt.
        """
        ...

    def add_norm(
        self,
        x_BTD: Tensor,
        y_BTD: Tensor | None,
        weight_D: Tensor,
        *,
        dropout: float = 0.0,
        seed: int = 0,
        out_dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(s, rmsnorm(s) * weight) with s = x + dropout(y); the second in `out_dtype`."""
        ...

    def rwkv_mix(
        self,
        p_BTP: Tensor,
        w_BTD: Tensor,
        u_HK: Tensor,
        norm_weight_D: Tensor,
        norm_bias_D: Tensor,
        state_BHKV: Tensor,
        *,
        logw_min: float,
    ) -> tuple[Tensor, Tensor]:
        """From projections to the gated output of RWKV-6's time mixing.

        The first 4D columns of p are [r | k | v | g]; logw = max(-exp(w), logw_min), without a
        gradient where it is clamped; each head is normalised (eps 64e-5), times silu(g).
        """
        ...

    def rwkv_decay_mix(
        self,
        p_BTP: Tensor,
        decay_up_DR: Tensor,
        decay_base_D: Tensor,
        u_HK: Tensor,
        norm_weight_D: Tensor,
        norm_bias_D: Tensor,
        state_BHKV: Tensor,
        *,
        logw_min: float,
    ) -> tuple[Tensor, Tensor]:
        """`rwkv_mix` of p = [r | k | v | g | low] with w = decay_up tanh(low) + decay_base."""
        ...

    def mamba_mix(
        self,
        p_BTP: Tensor,
        conv_weight_CW: Tensor,
        conv_bias_C: Tensor,
        dt_bias_M: Tensor,
        a_log_M: Tensor,
        skip_M: Tensor,
        norm_weight_I: Tensor,
        conv_state: Tensor,
        ssm_state: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """From the projection [z | x | B | C | dt] to the gated, normalised output of Mamba-2.

        `conv_state` (B, W-1, C) holds the convolution's last inputs, `ssm_state` (B, M, P, N) the
        recurrence. Returns o_BTI and both new states.
        """
        ...

    def gated_sum(
        self, r_BTD: Tensor, m_BTD: Tensor, weight: Tensor, bias: Tensor, *, normed: bool = False
    ) -> Tensor:
        """g r + (1 - g) m with g = sigmoid(weight . [r; m] + bias), one g per position. `normed`:
        of r and m RMS-normalised over their channels, without a weight."""
        ...

    def relu2(self, x: Tensor) -> Tensor:
        """max(x, 0) ** 2."""
        ...


def _reference() -> Kernels:
    from twin.lm.kernels.reference import Reference

    return Reference()


def _chunked() -> Kernels:
    from twin.lm.kernels.chunked import Chunked

    return Chunked()


def _compiled() -> Kernels:
    from twin.lm.kernels.chunked import Compiled

    return Compiled()


def _native() -> Kernels:
    from twin.lm.kernels.native import Native

    return Native()


def _triton() -> Kernels:
    from twin.lm.kernels.triton import TritonKernels

    return TritonKernels()


def _fla() -> Kernels:
    from twin.lm.kernels.fla import FlaKernels

    return FlaKernels()


BACKENDS: dict[str, Callable[[], Kernels]] = {
    "reference": _reference,
    "chunked": _chunked,
    "compiled": _compiled,
    "native": _native,
    "triton": _triton,
    "fla": _fla,
}
"""Each raises KernelUnavailable with the reason where it cannot run."""


def choose(name: str = "auto", device: torch.device | None = None) -> Kernels:
    """The backend of that name; `auto` takes native on a CPU, compiled on a GPU, else chunked.

    The chosen backend says by its `name` what it is, so that no fallback is silent.
    """
    if name != "auto":
        if name not in BACKENDS:
            raise KernelUnavailable(
                f"There are no kernels `{name}`. Use auto or one of {', '.join(BACKENDS)}."
            )
        return BACKENDS[name]()
    if device is not None and device.type != "cpu":
        return _compiled()
    try:
        return _native()
    except KernelUnavailable:
        return _chunked()
