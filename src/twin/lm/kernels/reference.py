"""The truth: both recurrences token by token, as the papers write them. Slow, and never fused.

Runs in the type of its inputs; give float64 to have something to compare with.
"""

import torch
from torch import Tensor

from twin.lm.kernels.composed import Composed


def wkv6(
    r_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, logw_BTHK: Tensor, u_HK: Tensor,
    state_BHKV: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """RWKV-6 (arXiv 2404.05892, eq. 19)."""
    state, outputs = state_BHKV, []
    for t in range(r_BTHK.shape[1]):
        kv_BHKV = k_BTHK[:, t, :, :, None] * v_BTHV[:, t, :, None, :]
        read = state + u_HK[None, :, :, None] * kv_BHKV
        outputs.append(torch.einsum("bhk,bhkv->bhv", r_BTHK[:, t], read))
        state = torch.exp(logw_BTHK[:, t])[..., None] * state + kv_BHKV
    return _stack(outputs, v_BTHV), state


def ssd(
    x_BTMP: Tensor, loga_BTM: Tensor, b_BTN: Tensor, c_BTN: Tensor, state_BMPN: Tensor
) -> tuple[Tensor, Tensor]:
    """Mamba-2's recurrence (arXiv 2405.21060, eq. 1), with dt already inside x and loga."""
    state, outputs = state_BMPN, []
    for t in range(x_BTMP.shape[1]):
        kept = torch.exp(loga_BTM[:, t])[..., None, None] * state
        state = kept + x_BTMP[:, t, :, :, None] * b_BTN[:, t, None, None, :]
        outputs.append(torch.einsum("bmpn,bn->bmp", state, c_BTN[:, t]))
    return _stack(outputs, x_BTMP), state


def _stack(outputs: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(outputs, dim=1) if outputs else torch.zeros_like(like)


class Reference(Composed):
    """The loops behind the seam: also the naive loop that benches compare with."""

    name = "reference"

    def wkv6(
        self, r_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, logw_BTHK: Tensor, u_HK: Tensor,
        state_BHKV: Tensor, *, logw_min: float | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        return wkv6(r_BTHK, k_BTHK, v_BTHV, logw_BTHK, u_HK, state_BHKV)

    def ssd(
        self, x_BTMP: Tensor, loga_BTM: Tensor, b_BTN: Tensor, c_BTN: Tensor, state_BMPN: Tensor
    ) -> tuple[Tensor, Tensor]:
        return ssd(x_BTMP, loga_BTM, b_BTN, c_BTN, state_BMPN)
