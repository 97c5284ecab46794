"""Kernels in C++ for a CPU, built on first use: exact recurrences and everything around them fused.

What they take: float32 and bfloat16 on a CPU, sizes of heads and states that are multiples of 16
(widths too, for the norm and the gate). All else goes to the chunked torch kernels, so a network
in float64 or of an odd shape works, slower.
"""

import torch
from torch import Tensor

from twin.lm.errors import KernelUnavailable
from twin.lm.kernels.chunked import Chunked
from twin.lm.kernels.native import half, ops
from twin.lm.precision import activation_dtype, is_half

LANES = 16
TYPES = (torch.float32, torch.bfloat16)


def available() -> str | None:
    """None where the native kernels run (they are built if need be), else the reason."""
    try:
        ops.library()
    except KernelUnavailable as error:
        return str(error)
    return None


def _takes(*tensors: Tensor | None, sizes: tuple[int, ...] = ()) -> bool:
    return all(size and size % LANES == 0 for size in sizes) and all(
        x.device.type == "cpu" and x.dtype in TYPES for x in tensors if x is not None
    )


def _learns(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


class Native(Chunked):
    """Raises KernelUnavailable, with the reason, where nothing can be built."""

    name = "native"

    def __init__(self) -> None:
        ops.library()
        self.has_half = half.available() is None

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.has_half and is_half() and half.pays(x, weight):
            return half.half_linear(x, weight)
        return super().linear(x, weight)

    def wkv6(
        self, r_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, logw_BTHK: Tensor, u_HK: Tensor,
        state_BHKV: Tensor, *, logw_min: float | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        given = (r_BTHK, k_BTHK, v_BTHV, logw_BTHK, u_HK, state_BHKV)
        if not _takes(*given, sizes=(u_HK.shape[1], v_BTHV.shape[3])):
            return super().wkv6(*given, logw_min=logw_min)
        if _learns(*given):
            o, state = ops.applied(ops.Wkv6, *given)
            return o, state
        r, k, v, logw = (ops.dense(x) for x in given[:4])
        o, state, _ = ops.Wkv6.run(r, k, v, logw, ops.full(u_HK), ops.full(state_BHKV), keep=False)
        return o, state

    def ssd(
        self, x_BTMP: Tensor, loga_BTM: Tensor, b_BTN: Tensor, c_BTN: Tensor, state_BMPN: Tensor
    ) -> tuple[Tensor, Tensor]:
        given = (x_BTMP, loga_BTM, b_BTN, c_BTN, state_BMPN)
        if not _takes(*given, sizes=tuple(state_BMPN.shape[2:])):
            return super().ssd(*given)
        if _learns(*given):
            y, state = ops.applied(ops.SsdScan, *given)
            return y, state
        x, b, c = (ops.dense(y) for y in (x_BTMP, b_BTN, c_BTN))
        y, state, _ = ops.SsdScan.run(x, ops.full(loga_BTM), b, c, ops.full(state_BMPN), keep=False)
        return y, state

    def add_norm(
        self, x_BTD: Tensor, y_BTD: Tensor | None, weight_D: Tensor, *,
        dropout: float = 0.0, seed: int = 0, out_dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The mask is a function of the seed and the place alone."""
        kind = out_dtype or activation_dtype(x_BTD)
        given = (x_BTD, y_BTD, weight_D)
        if not _takes(*given, sizes=(x_BTD.shape[-1],)) or kind not in TYPES or dropout >= 1:
            return super().add_norm(
                x_BTD, y_BTD, weight_D, dropout=dropout, seed=seed, out_dtype=out_dtype
            )
        if not _learns(*given):
            return ops.AddNorm.run(x_BTD, y_BTD, ops.full(weight_D), dropout, seed, kind)
        made = ops.applied(ops.AddNorm, dropout, seed, kind, *given)
        return (x_BTD, made) if y_BTD is None else made

    def rwkv_mix(
        self, p_BTP: Tensor, w_BTD: Tensor, u_HK: Tensor, norm_weight_D: Tensor,
        norm_bias_D: Tensor, state_BHKV: Tensor, *, logw_min: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        given = (p_BTP, w_BTD, u_HK, norm_weight_D, norm_bias_D, state_BHKV)
        if not _takes(*given, sizes=(u_HK.shape[1],)):
            return super().rwkv_mix(*given, logw_min=logw_min)
        if _learns(*given):
            o, state = ops.applied(ops.RwkvMix, logw_min, *given)
            return o, state
        p, w = ops.dense(p_BTP), ops.dense(w_BTD)
        small = tuple(ops.full(x) for x in given[2:5])
        o, state, _, _ = ops.RwkvMix.run(p, w, small, ops.full(state_BHKV), logw_min, keep=False)
        return o, state

    def rwkv_decay_mix(
        self, p_BTP: Tensor, decay_up_DR: Tensor, decay_base_D: Tensor, u_HK: Tensor,
        norm_weight_D: Tensor, norm_bias_D: Tensor, state_BHKV: Tensor, *, logw_min: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        decay, rest = (decay_up_DR, decay_base_D), (u_HK, norm_weight_D, norm_bias_D, state_BHKV)
        given = (p_BTP, *decay, *rest)
        if _takes(*given, sizes=(u_HK.shape[1],)) and _learns(*given):
            o, state = ops.applied(ops.RwkvDecayMix, logw_min, *given)
            return o, state
        return super().rwkv_decay_mix(p_BTP, *decay, *rest, logw_min=logw_min)

    def mamba_mix(
        self, p_BTP: Tensor, conv_weight_CW: Tensor, conv_bias_C: Tensor, dt_bias_M: Tensor,
        a_log_M: Tensor, skip_M: Tensor, norm_weight_I: Tensor, conv_state: Tensor,
        ssm_state: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        small = (conv_weight_CW, conv_bias_C, dt_bias_M, a_log_M, skip_M, norm_weight_I)
        given = (p_BTP, *small, conv_state, ssm_state)
        if not _takes(*given, sizes=tuple(ssm_state.shape[2:])):
            return super().mamba_mix(*given)
        if _learns(*given):
            o, conv_state, ssm_state = ops.applied(ops.MambaMix, *given)
            return o, conv_state, ssm_state
        o, conv_state, ssm_state, _, _ = ops.MambaMix.run(
            ops.dense(p_BTP), tuple(ops.full(x) for x in small), ops.full(conv_state),
            ops.full(ssm_state), keep=False,
        )  # fmt: skip
        return o, conv_state, ssm_state

    def gated_sum(
        self, r_BTD: Tensor, m_BTD: Tensor, weight: Tensor, bias: Tensor, *, normed: bool = False
    ) -> Tensor:
        given = (r_BTD, m_BTD, weight, bias)
        is_taken = _takes(*given, sizes=(r_BTD.shape[-1],)) and r_BTD.dtype == m_BTD.dtype
        if not is_taken:
            return super().gated_sum(*given, normed=normed)
        if _learns(*given):
            out: Tensor = ops.applied(ops.GatedSum, *given, normed)
            return out
        full = ops.full(weight), ops.full(bias)
        return ops.GatedSum.run(r_BTD, m_BTD, *full, normed, keep=False)[0]

    def relu2(self, x: Tensor) -> Tensor:
        if not _takes(x) or not x.is_contiguous():
            return super().relu2(x)
        if _learns(x):
            y: Tensor = ops.applied(ops.Relu2, x)
            return y
        return ops.Relu2.run(x)
