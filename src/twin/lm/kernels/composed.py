"""What surrounds the recurrences, in plain torch: works on every device and in every type.

A backend with nothing but a faster recurrence inherits the rest from here; the native one is
compared with it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from twin.lm.precision import activation_dtype

NORM_EPS = 1e-5
HEAD_NORM_EPS = 64e-5
"""RWKV-6's: 1e-5 times the square of its head_size_divisor, 8."""


def wide(x: Tensor) -> Tensor:
    """In float32, or in float64 where it is that already."""
    return x if x.dtype == torch.float64 else x.float()


class Composed:
    """The parts of `Kernels` that are no recurrence."""

    name = "composed"
    has_half = False

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)

    def wkv6(
        self, r_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, logw_BTHK: Tensor, u_HK: Tensor,
        state_BHKV: Tensor, *, logw_min: float | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        raise NotImplementedError

    def ssd(
        self, x_BTMP: Tensor, loga_BTM: Tensor, b_BTN: Tensor, c_BTN: Tensor, state_BMPN: Tensor
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def add_norm(
        self, x_BTD: Tensor, y_BTD: Tensor | None, weight_D: Tensor, *,
        dropout: float = 0.0, seed: int = 0, out_dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """`seed` is not used: the mask comes from torch's own generator, which compiles."""
        if y_BTD is not None:
            added = y_BTD.to(x_BTD.dtype)
            x_BTD = x_BTD + (F.dropout(added, dropout) if dropout else added)
        x = wide(x_BTD)
        normed = F.rms_norm(x, (x.shape[-1],), weight_D.to(x.dtype), NORM_EPS)
        return x_BTD, normed.to(out_dtype or activation_dtype(x_BTD))

    def rwkv_mix(
        self, p_BTP: Tensor, w_BTD: Tensor, u_HK: Tensor, norm_weight_D: Tensor,
        norm_bias_D: Tensor, state_BHKV: Tensor, *, logw_min: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        batch, time, d_model = w_BTD.shape
        heads, head_dim = u_HK.shape
        split = wide(p_BTP[..., : 4 * d_model]).reshape(batch, time, 4, heads, head_dim)
        r_BTHK, k_BTHK, v_BTHV, g_BTHV = split.unbind(2)
        logw = torch.clamp_min(-torch.exp(wide(w_BTD)), logw_min)
        logw_BTHK = logw.view(batch, time, heads, head_dim)
        o_BTHV, state = self.wkv6(
            r_BTHK, k_BTHK, v_BTHV, logw_BTHK, wide(u_HK), state_BHKV, logw_min=logw_min
        )
        with torch.autocast(p_BTP.device.type, enabled=False):
            normed = F.group_norm(
                o_BTHV.reshape(batch * time, d_model), heads,
                wide(norm_weight_D), wide(norm_bias_D), HEAD_NORM_EPS,
            ).view_as(w_BTD)  # fmt: skip
            out = normed * F.silu(g_BTHV.reshape(batch, time, d_model))
        return out.to(p_BTP.dtype), state

    def rwkv_decay_mix(
        self, p_BTP: Tensor, decay_up_DR: Tensor, decay_base_D: Tensor, u_HK: Tensor,
        norm_weight_D: Tensor, norm_bias_D: Tensor, state_BHKV: Tensor, *, logw_min: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        low_BTR = wide(p_BTP[..., 4 * decay_up_DR.shape[0] :])
        # Exponents of exponents: in bfloat16 a decay would be off by more than a hundredth.
        with torch.autocast(p_BTP.device.type, enabled=False):
            w_BTD = F.linear(torch.tanh(low_BTR), wide(decay_up_DR)) + wide(decay_base_D)
        return self.rwkv_mix(
            p_BTP, w_BTD, u_HK, norm_weight_D, norm_bias_D, state_BHKV, logw_min=logw_min
        )

    def mamba_mix(
        self, p_BTP: Tensor, conv_weight_CW: Tensor, conv_bias_C: Tensor, dt_bias_M: Tensor,
        a_log_M: Tensor, skip_M: Tensor, norm_weight_I: Tensor, conv_state: Tensor,
        ssm_state: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        batch, time, _ = p_BTP.shape
        _, heads, head_dim, d_state = ssm_state.shape
        inner, channels = heads * head_dim, conv_weight_CW.shape[0]
        z, inputs, dt = torch.split(wide(p_BTP), [inner, channels, heads], dim=-1)
        # The convolution's state travels in float32, as all state does.
        seen = torch.cat([conv_state.to(inputs.dtype), inputs], dim=1)
        mixed = F.silu(causal_convolution(seen, wide(conv_weight_CW), wide(conv_bias_C)))
        x, b_BTN, c_BTN = torch.split(mixed, [inner, d_state, d_state], dim=-1)
        x_BTMP = x.reshape(batch, time, heads, head_dim)
        dt_BTM = F.softplus(dt + wide(dt_bias_M))
        loga_BTM = -torch.exp(wide(a_log_M)) * dt_BTM
        y_BTMP, ssm_state = self.ssd(dt_BTM[..., None] * x_BTMP, loga_BTM, b_BTN, c_BTN, ssm_state)
        with torch.autocast(p_BTP.device.type, enabled=False):
            y_BTMP = y_BTMP + wide(skip_M)[:, None] * x_BTMP
            gated = y_BTMP.reshape(batch, time, inner) * F.silu(z)
            out = F.rms_norm(gated, (inner,), wide(norm_weight_I), NORM_EPS)
        kept = seen[:, seen.shape[1] - conv_state.shape[1] :]
        return out.to(p_BTP.dtype), kept, ssm_state

    def gated_sum(
        self, r_BTD: Tensor, m_BTD: Tensor, weight: Tensor, bias: Tensor, *, normed: bool = False
    ) -> Tensor:
        with torch.autocast(r_BTD.device.type, enabled=False):
            r, m = wide(r_BTD), wide(m_BTD)
            if normed:
                r, m = unit_norm(r), unit_norm(m)
            for_r, for_m = wide(weight).view(2, -1)
            gate = torch.sigmoid(r @ for_r + m @ for_m + wide(bias))[..., None]
            return (m + gate * (r - m)).to(r_BTD.dtype)

    def relu2(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


def unit_norm(x: Tensor) -> Tensor:
    """RMS-normalised over the channels, without a weight."""
    return F.rms_norm(x, x.shape[-1:], eps=NORM_EPS)


def causal_convolution(seen: Tensor, weight_CW: Tensor, bias_C: Tensor) -> Tensor:
    """Depthwise over (B, W-1+T, C): output t sees inputs t-W+1 .. t. As shifted sums, which on a
    CPU are faster than a grouped conv1d and its transposes."""
    width = weight_CW.shape[1]
    time = seen.shape[1] - width + 1
    taps = [seen[:, tap : tap + time] * weight_CW[:, tap] for tap in range(width)]
    return torch.stack(taps).sum(0) + bias_C
