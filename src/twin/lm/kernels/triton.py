"""WKV-6 and SSD as Triton kernels for GPUs: the exact recurrences, forward and backward.

One program walks the tokens of one head and one block of value columns with the state in
registers, so there is no chunk arithmetic, no bound on the decay and no cancellation: the only
differences from the float64 reference are roundings. The forward pass keeps the state before every
`EVERY`-th token; the backward pass walks those segments from the last to the first, recomputes the
states inside one segment into a scratch buffer that fits the L2 cache, and reads them in reverse.

Speed comes from the number of programs (batch x heads x blocks): below about 500 of them a large
GPU is not full, and `chunked` may be faster. Without a GPU the kernels run in Triton's interpreter
(`TRITON_INTERPRET=1` before this module is imported), which is how they are tested there.

Shapes: B batch, T time, H heads, K and V key and value width, P and N channel and state width.
"""

import os
from typing import Any, Final

import torch
from torch import Tensor

from twin.lm.errors import KernelUnavailable
from twin.lm.kernels.chunked import Chunked

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise KernelUnavailable(
        "The kernels `triton` need the package triton. Install it with `pip install triton`, or "
        "use the kernels `auto`."
    ) from error

EVERY: Final = 16
"""Tokens between kept states: kept memory is T/16 states a head, scratch 16 states a program."""
COLUMNS: Final = 16
"""Value columns (channels for SSD) of one program, and with them `_warps`: chosen so that ptxas
for sm_90 keeps all in registers; with 32 columns WKV-6 of 64 keys spills 330 bytes a thread."""


class TritonKernels(Chunked):
    """The two recurrences below, all around them in plain torch. Tensors on no GPU go to the
    chunked recurrences, except in the interpreter."""

    name = "triton"

    def __init__(self) -> None:
        """Raises KernelUnavailable without a GPU, except in the interpreter."""
        if not (torch.cuda.is_available() or is_interpreted()):
            raise KernelUnavailable(
                "The kernels `triton` need a GPU and torch sees none. Use the kernels `auto`."
            )

    def wkv6(
        self, r_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, logw_BTHK: Tensor, u_HK: Tensor,
        state_BHKV: Tensor, *, logw_min: float | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Exact for any decay: `logw_min` is of use to the chunked recurrence only."""
        given = (r_BTHK, k_BTHK, v_BTHV, logw_BTHK, u_HK, state_BHKV)
        if r_BTHK.shape[1] == 0 or not _takes(r_BTHK):
            return super().wkv6(*given, logw_min=logw_min)
        out, state, _ = _wkv6(*given)
        return out, state

    def ssd(
        self, x_BTMP: Tensor, loga_BTM: Tensor, b_BTN: Tensor, c_BTN: Tensor, state_BMPN: Tensor
    ) -> tuple[Tensor, Tensor]:
        given = (x_BTMP, loga_BTM, b_BTN, c_BTN, state_BMPN)
        if x_BTMP.shape[1] == 0 or not _takes(x_BTMP):
            return super().ssd(*given)
        out, state, _ = _ssd(*given)
        return out, state


def is_interpreted() -> bool:
    """Whether kernels run as Python on the CPU, which Triton decides when they are defined."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _takes(x: Tensor) -> bool:
    return x.is_cuda or is_interpreted()


# ---- WKV-6


@triton.jit
def _wkv6_forward_kernel(
    r, k, v, w, u, s_in, o, s_out, kept,
    r_row, k_row, v_row, w_row, T, H,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    EVERY: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(1) * BV + tl.arange(0, BV)
    head = tl.program_id(0).to(tl.int64)  # this axis has no limit that a batch reaches
    b, h = head // H, head % H
    keys = tl.arange(0, BK)
    has_k, has_v = keys < K, columns < V
    tile = keys[:, None] * V + columns[None, :]
    has = has_k[:, None] & has_v[None, :]
    bonus = tl.load(u + h * K + keys, mask=has_k, other=0.0).to(ACC)
    state = tl.load(s_in + head * K * V + tile, mask=has, other=0.0).to(ACC)
    kept += head * tl.cdiv(T, EVERY) * K * V
    for t in range(0, T):
        if t % EVERY == 0:
            tl.store(kept + (t // EVERY) * K * V + tile, state, mask=has)
        row = b * T + t
        r_t = tl.load(r + row * r_row + h * K + keys, mask=has_k, other=0.0).to(ACC)
        k_t = tl.load(k + row * k_row + h * K + keys, mask=has_k, other=0.0).to(ACC)
        w_t = tl.load(w + row * w_row + h * K + keys, mask=has_k, other=0.0).to(ACC)
        v_t = tl.load(v + row * v_row + h * V + columns, mask=has_v, other=0.0).to(ACC)
        seen = tl.sum(r_t[:, None] * state, 0) + tl.sum(r_t * bonus * k_t, 0) * v_t
        tl.store(o + (row * H + h) * V + columns, seen.to(o.dtype.element_ty), mask=has_v)
        state = tl.exp(w_t)[:, None] * state + k_t[:, None] * v_t[None, :]
    tl.store(s_out + head * K * V + tile, state, mask=has)


@triton.jit
def _wkv6_backward_kernel(
    r, k, v, w, u, kept, d_o, d_s_out,
    d_r, d_k, d_v, d_w, d_u, d_s_in, scratch,
    r_row, k_row, v_row, w_row, T, H,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    EVERY: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    # d_r, d_k, d_w and d_u hold one part for each block of columns; the caller adds them up.
    block, blocks = tl.program_id(1), tl.num_programs(1)
    columns = block * BV + tl.arange(0, BV)
    head = tl.program_id(0).to(tl.int64)  # this axis has no limit that a batch reaches
    b, h = head // H, head % H
    keys = tl.arange(0, BK)
    has_k, has_v = keys < K, columns < V
    tile = keys[:, None] * V + columns[None, :]
    has = has_k[:, None] & has_v[None, :]
    own = keys[:, None] * BV + tl.arange(0, BV)[None, :]
    bonus = tl.load(u + h * K + keys, mask=has_k, other=0.0).to(ACC)
    grad = tl.load(d_s_out + head * K * V + tile, mask=has, other=0.0).to(ACC)
    grad_u = tl.zeros([BK], ACC)
    segments = tl.cdiv(T, EVERY)
    kept += head * segments * K * V
    scratch += (head * blocks + block) * EVERY * BK * BV
    for behind in range(0, segments):
        first = (segments - 1 - behind) * EVERY
        tokens = tl.minimum(EVERY, T - first)
        state = tl.load(kept + (segments - 1 - behind) * K * V + tile, mask=has, other=0.0)
        for j in range(0, tokens):
            tl.store(scratch + j * BK * BV + own, state)
            row = b * T + first + j
            k_t = tl.load(k + row * k_row + h * K + keys, mask=has_k, other=0.0).to(ACC)
            w_t = tl.load(w + row * w_row + h * K + keys, mask=has_k, other=0.0).to(ACC)
            v_t = tl.load(v + row * v_row + h * V + columns, mask=has_v, other=0.0).to(ACC)
            state = tl.exp(w_t)[:, None] * state + k_t[:, None] * v_t[None, :]
        tl.debug_barrier()  # The scratch is read below, perhaps by other threads than wrote it.
        for back in range(0, tokens):
            j = tokens - 1 - back
            row = b * T + first + j
            state = tl.load(scratch + j * BK * BV + own)
            r_t = tl.load(r + row * r_row + h * K + keys, mask=has_k, other=0.0).to(ACC)
            k_t = tl.load(k + row * k_row + h * K + keys, mask=has_k, other=0.0).to(ACC)
            w_t = tl.load(w + row * w_row + h * K + keys, mask=has_k, other=0.0).to(ACC)
            v_t = tl.load(v + row * v_row + h * V + columns, mask=has_v, other=0.0).to(ACC)
            o_at = (row * H + h) * V + columns
            do_t = tl.load(d_o + o_at, mask=has_v, other=0.0).to(ACC)
            decay = tl.exp(w_t)
            v_do = tl.sum(v_t * do_t, 0)
            now_u = r_t * k_t * v_do
            grad_u += now_u
            part_r = tl.sum(state * do_t[None, :], 1) + bonus * k_t * v_do
            part_k = tl.sum(grad * v_t[None, :], 1) + bonus * r_t * v_do
            part_w = decay * tl.sum(grad * state, 1)
            whole_v = tl.sum(grad * k_t[:, None], 0) + tl.sum(r_t * bonus * k_t, 0) * do_t
            at = ((row * H + h) * blocks + block) * K + keys
            tl.store(d_r + at, part_r, mask=has_k)
            tl.store(d_k + at, part_k, mask=has_k)
            tl.store(d_w + at, part_w, mask=has_k)
            tl.store(d_v + o_at, whole_v.to(d_v.dtype.element_ty), mask=has_v)
            grad = decay[:, None] * grad + r_t[:, None] * do_t[None, :]
        tl.debug_barrier()  # The next segment overwrites the scratch.
    tl.store(d_s_in + head * K * V + tile, grad, mask=has)
    tl.store(d_u + (head * blocks + block) * K + keys, grad_u, mask=has_k)


@torch.library.custom_op("twin_lm_triton::wkv6", mutates_args=())
def _wkv6(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    (B, T, H, K), V = r.shape, v.shape[-1]
    r, k, v, w = map(_rows, (r, k, v, w))
    acc = _accumulator(r)
    out = torch.empty(B, T, H, V, dtype=v.dtype, device=v.device)
    last = torch.empty(B, H, K, V, dtype=acc, device=v.device)
    kept = torch.empty(B, H, triton.cdiv(T, EVERY), K, V, dtype=acc, device=v.device)
    columns = min(COLUMNS, triton.next_power_of_2(V))
    _wkv6_forward_kernel[(B * H, triton.cdiv(V, columns))](
        r, k, v, w, u.contiguous(), state.contiguous(), out, last, kept,
        r.stride(1), k.stride(1), v.stride(1), w.stride(1), T, H,
        K=K, V=V, BK=triton.next_power_of_2(K), BV=columns,
        EVERY=EVERY, ACC=_triton_type(acc), num_warps=_warps(K),
    )  # fmt: skip
    return out, last, kept


@_wkv6.register_fake
def _(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    (B, T, H, K), V, acc = r.shape, v.shape[-1], _accumulator(r)
    return (
        v.new_empty(B, T, H, V),
        v.new_empty(B, H, K, V, dtype=acc),
        v.new_empty(B, H, (T + EVERY - 1) // EVERY, K, V, dtype=acc),
    )


@torch.library.custom_op("twin_lm_triton::wkv6_backward", mutates_args=())
def _wkv6_backward(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    kept: Tensor,
    d_out: Tensor,
    d_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    (B, T, H, K), V = r.shape, v.shape[-1]
    r, k, v, w = map(_rows, (r, k, v, w))
    columns = min(COLUMNS, triton.next_power_of_2(V))
    blocks, wide = triton.cdiv(V, columns), triton.next_power_of_2(K)
    parts = [kept.new_empty(B, T, H, blocks, K) for _ in range(3)]
    d_v = torch.empty(B, T, H, V, dtype=v.dtype, device=v.device)
    d_u = kept.new_empty(B, H, blocks, K)
    d_first = kept.new_empty(B, H, K, V)
    scratch = kept.new_empty(B * H, blocks, EVERY, wide, columns)
    _wkv6_backward_kernel[(B * H, blocks)](
        r, k, v, w, u.contiguous(), kept, d_out.contiguous(), d_last.contiguous(),
        parts[0], parts[1], d_v, parts[2], d_u, d_first, scratch,
        r.stride(1), k.stride(1), v.stride(1), w.stride(1), T, H,
        K=K, V=V, BK=wide, BV=columns, EVERY=EVERY, ACC=_triton_type(kept.dtype),
        num_warps=_warps(K),
    )  # fmt: skip
    d_r, d_k, d_w = (part.sum(3).to(x.dtype) for part, x in zip(parts, (r, k, w), strict=True))
    return d_r, d_k, d_v, d_w, d_u.sum((0, 2)).to(u.dtype), d_first


@_wkv6_backward.register_fake
def _(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    kept: Tensor,
    d_out: Tensor,
    d_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    new = [x.new_empty(x.shape) for x in (r, k, v, w, u)]
    return new[0], new[1], new[2], new[3], new[4], torch.empty_like(d_last, dtype=kept.dtype)


def _wkv6_keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:5], output[2])
    ctx.state_type = inputs[5].dtype
    ctx.set_materialize_grads(True)


def _wkv6_differentiate(ctx: Any, d_out: Tensor, d_last: Tensor, _: Tensor) -> Any:
    *grads, d_first = _wkv6_backward(*ctx.saved_tensors, d_out, d_last)
    return *grads, d_first.to(ctx.state_type)


_wkv6.register_autograd(_wkv6_differentiate, setup_context=_wkv6_keep)


# ---- SSD


@triton.jit
def _ssd_forward_kernel(
    x, a, b, c, s_in, y, s_out, kept,
    x_row, a_row, b_row, c_row, T, H,
    P: tl.constexpr, N: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    EVERY: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    channels = tl.program_id(1) * BP + tl.arange(0, BP)
    head = tl.program_id(0).to(tl.int64)  # this axis has no limit that a batch reaches
    batch, h = head // H, head % H
    slots = tl.arange(0, BN)
    has_p, has_n = channels < P, slots < N
    tile = channels[:, None] * N + slots[None, :]
    has = has_p[:, None] & has_n[None, :]
    state = tl.load(s_in + head * P * N + tile, mask=has, other=0.0).to(ACC)
    kept += head * tl.cdiv(T, EVERY) * P * N
    for t in range(0, T):
        if t % EVERY == 0:
            tl.store(kept + (t // EVERY) * P * N + tile, state, mask=has)
        row = batch * T + t
        x_t = tl.load(x + row * x_row + h * P + channels, mask=has_p, other=0.0).to(ACC)
        b_t = tl.load(b + row * b_row + slots, mask=has_n, other=0.0).to(ACC)
        c_t = tl.load(c + row * c_row + slots, mask=has_n, other=0.0).to(ACC)
        decay = tl.exp(tl.load(a + row * a_row + h).to(ACC))
        state = decay * state + x_t[:, None] * b_t[None, :]
        seen = tl.sum(state * c_t[None, :], 1)
        tl.store(y + (row * H + h) * P + channels, seen.to(y.dtype.element_ty), mask=has_p)
    tl.store(s_out + head * P * N + tile, state, mask=has)


@triton.jit
def _ssd_backward_kernel(
    x, a, b, c, kept, d_y, d_s_out,
    d_x, d_a, d_b, d_c, d_s_in, scratch,
    x_row, a_row, b_row, c_row, T, H,
    P: tl.constexpr, N: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    EVERY: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    # d_a, d_b and d_c hold one part for each block of channels (and d_b, d_c for each head).
    block, blocks = tl.program_id(1), tl.num_programs(1)
    channels = block * BP + tl.arange(0, BP)
    head = tl.program_id(0).to(tl.int64)  # this axis has no limit that a batch reaches
    batch, h = head // H, head % H
    slots = tl.arange(0, BN)
    has_p, has_n = channels < P, slots < N
    tile = channels[:, None] * N + slots[None, :]
    has = has_p[:, None] & has_n[None, :]
    own = tl.arange(0, BP)[:, None] * BN + slots[None, :]
    grad = tl.load(d_s_out + head * P * N + tile, mask=has, other=0.0).to(ACC)
    segments = tl.cdiv(T, EVERY)
    kept += head * segments * P * N
    scratch += (head * blocks + block) * EVERY * BP * BN
    for behind in range(0, segments):
        first = (segments - 1 - behind) * EVERY
        tokens = tl.minimum(EVERY, T - first)
        state = tl.load(kept + (segments - 1 - behind) * P * N + tile, mask=has, other=0.0)
        for j in range(0, tokens):
            tl.store(scratch + j * BP * BN + own, state)
            row = batch * T + first + j
            x_at = x + row * x_row + h * P + channels
            x_t = tl.load(x_at, mask=has_p, other=0.0).to(ACC)
            b_t = tl.load(b + row * b_row + slots, mask=has_n, other=0.0).to(ACC)
            decay = tl.exp(tl.load(a + row * a_row + h).to(ACC))
            state = decay * state + x_t[:, None] * b_t[None, :]
        tl.debug_barrier()  # As in WKV-6.
        for back in range(0, tokens):
            j = tokens - 1 - back
            row = batch * T + first + j
            before = tl.load(scratch + j * BP * BN + own)
            x_at = x + row * x_row + h * P + channels
            x_t = tl.load(x_at, mask=has_p, other=0.0).to(ACC)
            b_t = tl.load(b + row * b_row + slots, mask=has_n, other=0.0).to(ACC)
            c_t = tl.load(c + row * c_row + slots, mask=has_n, other=0.0).to(ACC)
            decay = tl.exp(tl.load(a + row * a_row + h).to(ACC))
            y_at = (row * H + h) * P + channels
            dy_t = tl.load(d_y + y_at, mask=has_p, other=0.0).to(ACC)
            grad += dy_t[:, None] * c_t[None, :]
            after = decay * before + x_t[:, None] * b_t[None, :]
            whole_x = tl.sum(grad * b_t[None, :], 1)
            tl.store(d_x + y_at, whole_x.to(d_x.dtype.element_ty), mask=has_p)
            part = (row * H + h) * blocks + block
            tl.store(d_a + part, decay * tl.sum(tl.sum(grad * before, 1), 0))
            part_b = tl.sum(grad * x_t[:, None], 0)
            tl.store(d_b + part * N + slots, part_b, mask=has_n)
            part_c = tl.sum(after * dy_t[:, None], 0)
            tl.store(d_c + part * N + slots, part_c, mask=has_n)
            grad = decay * grad
        tl.debug_barrier()
    tl.store(d_s_in + head * P * N + tile, grad, mask=has)


@torch.library.custom_op("twin_lm_triton::ssd", mutates_args=())
def _ssd(
    x: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    (B, T, H, P), N = x.shape, b.shape[-1]
    x, a, b, c = map(_rows, (x, a, b, c))
    acc = _accumulator(x)
    out = torch.empty(B, T, H, P, dtype=x.dtype, device=x.device)
    last = torch.empty(B, H, P, N, dtype=acc, device=x.device)
    kept = torch.empty(B, H, triton.cdiv(T, EVERY), P, N, dtype=acc, device=x.device)
    channels = min(COLUMNS, triton.next_power_of_2(P))
    _ssd_forward_kernel[(B * H, triton.cdiv(P, channels))](
        x, a, b, c, state.contiguous(), out, last, kept,
        x.stride(1), a.stride(1), b.stride(1), c.stride(1), T, H,
        P=P, N=N, BP=channels, BN=triton.next_power_of_2(N),
        EVERY=EVERY, ACC=_triton_type(acc), num_warps=_warps(N),
    )  # fmt: skip
    return out, last, kept


@_ssd.register_fake
def _(x: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    (B, T, H, P), N, acc = x.shape, b.shape[-1], _accumulator(x)
    return (
        x.new_empty(B, T, H, P),
        x.new_empty(B, H, P, N, dtype=acc),
        x.new_empty(B, H, (T + EVERY - 1) // EVERY, P, N, dtype=acc),
    )


@torch.library.custom_op("twin_lm_triton::ssd_backward", mutates_args=())
def _ssd_backward(
    x: Tensor, a: Tensor, b: Tensor, c: Tensor, kept: Tensor, d_out: Tensor, d_last: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (B, T, H, P), N = x.shape, b.shape[-1]
    x, a, b, c = map(_rows, (x, a, b, c))
    channels = min(COLUMNS, triton.next_power_of_2(P))
    blocks, wide = triton.cdiv(P, channels), triton.next_power_of_2(N)
    d_x = torch.empty(B, T, H, P, dtype=x.dtype, device=x.device)
    d_a = kept.new_empty(B, T, H, blocks)
    d_b, d_c = (kept.new_empty(B, T, H, blocks, N) for _ in range(2))
    d_first = kept.new_empty(B, H, P, N)
    scratch = kept.new_empty(B * H, blocks, EVERY, channels, wide)
    _ssd_backward_kernel[(B * H, blocks)](
        x, a, b, c, kept, d_out.contiguous(), d_last.contiguous(),
        d_x, d_a, d_b, d_c, d_first, scratch,
        x.stride(1), a.stride(1), b.stride(1), c.stride(1), T, H,
        P=P, N=N, BP=channels, BN=wide, EVERY=EVERY, ACC=_triton_type(kept.dtype),
        num_warps=_warps(N),
    )  # fmt: skip
    return (
        d_x,
        d_a.sum(3).to(a.dtype),
        d_b.sum((2, 3)).to(b.dtype),
        d_c.sum((2, 3)).to(c.dtype),
        d_first,
    )


@_ssd_backward.register_fake
def _(
    x: Tensor, a: Tensor, b: Tensor, c: Tensor, kept: Tensor, d_out: Tensor, d_last: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    new = [tensor.new_empty(tensor.shape) for tensor in (x, a, b, c)]
    return new[0], new[1], new[2], new[3], torch.empty_like(d_last, dtype=kept.dtype)


def _ssd_keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:4], output[2])
    ctx.state_type = inputs[4].dtype
    ctx.set_materialize_grads(True)


def _ssd_differentiate(ctx: Any, d_out: Tensor, d_last: Tensor, _: Tensor) -> Any:
    *grads, d_first = _ssd_backward(*ctx.saved_tensors, d_out, d_last)
    return *grads, d_first.to(ctx.state_type)


_ssd.register_autograd(_ssd_differentiate, setup_context=_ssd_keep)


# ---- both


def _rows(x: Tensor) -> Tensor:
    """`x` itself where token (b, t) starts at (b T + t) stride and the rest is dense, as slices of
    a projection are; a dense copy otherwise."""
    dense = x[:1, :1].is_contiguous() and x.stride(0) == x.shape[1] * x.stride(1)
    return x if dense else x.contiguous()


def _warps(size: int) -> int:
    """Over 32 state rows a thread's share no longer fits its registers. One warp, where it does,
    needs no barrier for its sums, and the sums are on the critical path."""
    return 1 if size <= 32 else 2


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _triton_type(dtype: torch.dtype) -> Any:
    return tl.float64 if dtype == torch.float64 else tl.float32
