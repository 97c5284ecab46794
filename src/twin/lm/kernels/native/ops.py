"""The native kernels as torch operations: memory, gradients, and the records that C++ reads.

Owns the C interface (the structures mirror the headers field by field). Every function here expects
what `native.Native` has checked: CPU, float32 or bfloat16, sizes that are multiples of 16.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from twin.lm.errors import KernelUnavailable, NotEnoughMemory
from twin.lm.kernels.composed import HEAD_NORM_EPS, NORM_EPS
from twin.lm.kernels.native import build

SEGMENT: Final = 32
"""Tokens between two saved states; kernels.h has the same."""
BLOCKS: Final = 64
"""Groups of rows that weight gradients are summed in; pointwise.h has the same."""
ABI: Final = 1
SOURCE: Final = Path(__file__).with_name("kernels.cpp")
NUMBER: Final = ctypes.c_int64
FLOAT: Final = ctypes.c_float
POINTER: Final = ctypes.c_void_p


class Strided(ctypes.Structure):
    """A tensor as (batch, time, head, channel), channels next to each other."""

    _fields_ = [
        ("p", POINTER), ("batch", NUMBER), ("time", NUMBER), ("head", NUMBER), ("is_bf16", NUMBER),
    ]  # fmt: skip


def _numbers(names: str) -> list[tuple[str, Any]]:
    return [(name, NUMBER) for name in names.split()]


def _floats(names: str) -> list[tuple[str, Any]]:
    return [(name, FLOAT) for name in names.split()]


def _tensors(names: str) -> list[tuple[str, Any]]:
    return [(name, Strided) for name in names.split()]


def _pointers(names: str) -> list[tuple[str, Any]]:
    return [(name, POINTER) for name in names.split()]


class Wkv(ctypes.Structure):
    """wkv.h"""

    _fields_ = [
        *_numbers("B T H K V threads is_fused"),
        *_floats("logw_min norm_eps"),
        *_tensors("r k v w g"),
        *_pointers("u norm_weight norm_bias state state_out"),
        *_tensors("o"),
        *_pointers("saved raw"),
        *_tensors("d_o dr dk dv dw dg"),
        *_pointers("d_state_out d_state du d_norm_weight d_norm_bias"),
    ]


class Ssd(ctypes.Structure):
    """ssd.h"""

    _fields_ = [
        *_numbers("B T H P N W threads"),
        *_floats("norm_eps"),
        *_tensors("x b c"),
        *_pointers("loga"),
        *_tensors("p"),
        *_pointers("conv_weight conv_bias dt_bias a_log skip norm_weight"),
        *_pointers("conv_state conv_state_out state state_out"),
        *_tensors("y"),
        *_pointers("saved raw"),
        *_tensors("d_y dx db dc dp"),
        *_pointers("dloga d_state_out d_conv_state_out d_state d_conv_state"),
        *_pointers("d_conv_weight d_conv_bias d_dt_bias d_a_log d_skip d_norm_weight"),
    ]


class Norm(ctypes.Structure):
    """pointwise.h"""

    _fields_ = [
        *_numbers("rows D threads"),
        *_floats("eps dropout"),
        *_numbers("seed"),
        *_tensors("x y s n"),
        *_pointers("weight"),
        *_tensors("d_s d_n dx dy"),
        *_pointers("d_weight"),
    ]


class Gate(ctypes.Structure):
    """pointwise.h"""

    _fields_ = [
        *_numbers("rows D threads normed"),
        *_tensors("r m out"),
        *_pointers("weight bias"),
        *_floats("eps"),
        *_pointers("kept"),
        *_tensors("d_out dr dm"),
        *_pointers("d_weight"),
    ]


class Flat(ctypes.Structure):
    """pointwise.h"""

    _fields_ = [*_numbers("size threads"), *_tensors("x y d_y dx")]


def torch_openmp() -> Path | None:
    """The GNU OpenMP runtime that torch brought and has loaded, if it is that one."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    found += sorted((Path(torch.__file__).parent.parent / "torch.libs").glob("libgomp*.so*"))
    return found[0] if found else None


@cache
def _library_at(level: str) -> ctypes.CDLL:
    library = build.load(SOURCE, torch_openmp())
    try:
        version = library.twin_abi()
    except AttributeError as error:
        raise KernelUnavailable(f"{SOURCE.name} was built without its functions.") from error
    assert version == ABI
    return library


def library() -> ctypes.CDLL:
    """Built for this machine. Raises KernelUnavailable with the reason."""
    return _library_at(build.level())


def call(name: str, arguments: ctypes.Structure) -> None:
    """Runs one kernel without the interpreter's lock."""
    if getattr(library(), f"twin_{name}")(ctypes.byref(arguments)):
        raise NotEnoughMemory("No memory was left for the native kernels. Use smaller batches.")


def applied(function: type[torch.autograd.Function], *given: Any) -> Any:
    """`function.apply`, which torch leaves without types."""
    return function.apply(*given)  # type: ignore[no-untyped-call]


def dense(x: Tensor) -> Tensor:
    """The same with channels next to each other; a slice of columns is left where it is."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def row(x: Tensor) -> Strided:
    """(B, T, C)"""
    return Strided(x.data_ptr(), x.stride(0), x.stride(1), 0, x.dtype == torch.bfloat16)


def heads(x: Tensor) -> Strided:
    """(B, T, H, C)"""
    return Strided(x.data_ptr(), x.stride(0), x.stride(1), x.stride(2), x.dtype == torch.bfloat16)


def columns(x: Tensor, first: int, width: int) -> Strided:
    """One head's width after another, from a column of (B, T, P) on."""
    view = row(x)
    view.p = x.data_ptr() + first * x.element_size()
    view.head = width
    return view


def rows(x: Tensor) -> Strided:
    """(rows, C)"""
    return Strided(x.data_ptr(), 0, x.stride(0), 0, x.dtype == torch.bfloat16)


def full(x: Tensor) -> Tensor:
    """Float32 and contiguous: parameters and states."""
    return x.detach().float().contiguous()


def pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _state_grad(grad: Tensor | None) -> Tensor | None:
    return None if grad is None else full(grad)


def num_segments(time: int) -> int:
    return -(-time // SEGMENT)


# RWKV-6 -------------------------------------------------------------------------------------------


def _wkv_record(
    r: Strided, k: Strided, v: Strided, w: Strided, u_HK: Tensor, sizes: tuple[int, int, int, int]
) -> Wkv:
    batch, time, num_heads, value = sizes
    return Wkv(
        B=batch, T=time, H=num_heads, K=u_HK.shape[1], V=value, threads=torch.get_num_threads(),
        r=r, k=k, v=v, w=w, u=u_HK.data_ptr(),
    )  # fmt: skip


def _saved_states(state_BHKV: Tensor, time: int) -> Tensor:
    batch, *rest = state_BHKV.shape
    return torch.empty(batch, num_segments(time), *rest)


class Wkv6(torch.autograd.Function):
    """The bare recurrence. o is float32."""

    @staticmethod
    def run(
        r: Tensor, k: Tensor, v: Tensor, logw: Tensor, u: Tensor, state: Tensor, *, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """o, the new state, and the states that backward needs."""
        o, new = torch.empty(v.shape), torch.empty_like(state)
        saved = _saved_states(state, r.shape[1]) if keep else None
        sizes = (*r.shape[:3], v.shape[3])
        record = _wkv_record(heads(r), heads(k), heads(v), heads(logw), u, sizes)
        record.state, record.state_out = state.data_ptr(), new.data_ptr()
        record.o, record.saved = heads(o), pointer(saved)
        call("wkv_forward", record)
        return o, new, saved

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor]:
        *streams, u, state = given
        r, k, v, logw = (dense(x) for x in streams)
        u, state = full(u), full(state)
        o, new, saved = Wkv6.run(r, k, v, logw, u, state, keep=True)
        ctx.save_for_backward(r, k, v, logw, u, saved)
        ctx.types = given[4].dtype, given[5].dtype
        ctx.set_materialize_grads(False)
        return o, new

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_o: Tensor | None, d_new: Tensor | None) -> tuple[Tensor, ...]:
        r, k, v, logw, u, saved = ctx.saved_tensors
        d_o = torch.zeros(v.shape) if d_o is None else dense(d_o)
        d_new = _state_grad(d_new)
        dr, dk, dv, dw = (torch.empty(x.shape, dtype=x.dtype) for x in (r, k, v, logw))
        batch, _, num_heads, key = r.shape
        d_state = torch.empty(batch, num_heads, key, v.shape[3])
        du = torch.empty(batch, num_heads, key)
        record = _wkv_record(
            heads(r), heads(k), heads(v), heads(logw), u, (*r.shape[:3], v.shape[3])
        )
        record.saved, record.d_o = saved.data_ptr(), heads(d_o)
        record.dr, record.dk, record.dv, record.dw = heads(dr), heads(dk), heads(dv), heads(dw)
        record.d_state_out, record.d_state = pointer(d_new), d_state.data_ptr()
        record.du = du.data_ptr()
        call("wkv_backward", record)
        for_u, for_state = ctx.types
        return dr, dk, dv, dw, du.sum(0).to(for_u), d_state.to(for_state)


class RwkvMix(torch.autograd.Function):
    """From projections to the gated output."""

    @staticmethod
    def record(p: Tensor, w: Tensor, small: tuple[Tensor, ...], logw_min: float) -> Wkv:
        u, norm_weight, norm_bias = small
        batch, time, width = w.shape
        num_heads, size = u.shape
        r, k, v, g = (columns(p, part * width, size) for part in range(4))
        record = _wkv_record(r, k, v, columns(w, 0, size), u, (batch, time, num_heads, size))
        record.g, record.is_fused, record.logw_min = g, 1, logw_min
        record.norm_eps = HEAD_NORM_EPS
        record.norm_weight, record.norm_bias = norm_weight.data_ptr(), norm_bias.data_ptr()
        return record

    @staticmethod
    def run(
        p: Tensor, w: Tensor, small: tuple[Tensor, ...], state: Tensor, logw_min: float, *,
        keep: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
        """The output, the new state, and what backward needs: states, o before its norm."""
        o = torch.empty(w.shape, dtype=p.dtype)
        new = torch.empty_like(state)
        saved = _saved_states(state, w.shape[1]) if keep else None
        raw = torch.empty(w.shape) if keep else None
        record = RwkvMix.record(p, w, small, logw_min)
        record.state, record.state_out = state.data_ptr(), new.data_ptr()
        record.o = columns(o, 0, small[0].shape[1])
        record.saved, record.raw = pointer(saved), pointer(raw)
        call("wkv_forward", record)
        return o, new, saved, raw

    @staticmethod
    def run_back(
        p: Tensor, w: Tensor, small: tuple[Tensor, ...], saved: Tensor, raw: Tensor,
        logw_min: float, d_o: Tensor | None, d_new: Tensor | None, dw: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:  # fmt: skip
        """dp with nothing yet in the columns after [r | k | v | g], and the parameters' and the
        state's gradients; dw is written to."""
        batch, _, width = w.shape
        num_heads, size = small[0].shape
        d_o = torch.zeros(w.shape) if d_o is None else dense(d_o)
        d_new = _state_grad(d_new)
        dp = torch.empty(p.shape, dtype=p.dtype)
        d_state = torch.empty(batch, num_heads, size, size)
        du, d_weight, d_bias = (torch.empty(batch, width) for _ in range(3))
        record = RwkvMix.record(p, w, small, logw_min)
        record.saved, record.raw = saved.data_ptr(), raw.data_ptr()
        record.d_o, record.dw = columns(d_o, 0, size), columns(dw, 0, size)
        record.dr, record.dk, record.dv, record.dg = (
            columns(dp, part * width, size) for part in range(4)
        )
        record.d_state_out, record.d_state = pointer(d_new), d_state.data_ptr()
        record.du = du.data_ptr()
        record.d_norm_weight, record.d_norm_bias = d_weight.data_ptr(), d_bias.data_ptr()
        call("wkv_backward", record)
        return dp, (du.sum(0).view(num_heads, size), d_weight.sum(0), d_bias.sum(0)), d_state

    @staticmethod
    def forward(ctx: Any, logw_min: float, *given: Tensor) -> tuple[Tensor, Tensor]:
        p, w = (dense(x) for x in given[:2])
        small, state = tuple(full(x) for x in given[2:5]), full(given[5])
        o, new, saved, raw = RwkvMix.run(p, w, small, state, logw_min, keep=True)
        ctx.save_for_backward(p, w, *small, saved, raw)
        ctx.logw_min, ctx.types = logw_min, [x.dtype for x in given[2:]]
        ctx.set_materialize_grads(False)
        return o, new

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_o: Tensor | None, d_new: Tensor | None) -> tuple[Any, ...]:
        p, w, u, norm_weight, norm_bias, saved, raw = ctx.saved_tensors
        dw = torch.empty(w.shape, dtype=w.dtype)
        small = (u, norm_weight, norm_bias)
        dp, d_small, d_state = RwkvMix.run_back(
            p, w, small, saved, raw, ctx.logw_min, d_o, d_new, dw
        )
        dp[..., 4 * w.shape[2] :] = 0
        others = (x.to(kind) for x, kind in zip((*d_small, d_state), ctx.types, strict=True))
        return None, dp, dw, *others


class RwkvDecayMix(torch.autograd.Function):
    """The same from a projection whose columns after [r | k | v | g] are the decay's low rank.

    One gradient of the whole projection comes out, written in place: with `RwkvMix` autograd fills
    the columns of each part with zeros to the full width and adds them up, which costs as much
    memory traffic as the kernel itself.
    """

    @staticmethod
    def decays(p: Tensor, up: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        """w, (B, T, D), and tanh of the low rank, (B T, R)."""
        width = up.shape[0]
        with torch.autocast("cpu", enabled=False):
            low = torch.tanh(p[..., 4 * width :]).reshape(-1, up.shape[1])
            if p.dtype == torch.float32:
                w = torch.addmm(base.float(), low, up.float().t())
            else:
                w = (low @ up.to(p.dtype).t()).float() + base.float()
        return w.view(*p.shape[:2], width), low

    @staticmethod
    def forward(ctx: Any, logw_min: float, *given: Tensor) -> tuple[Tensor, Tensor]:
        p, (up, base) = dense(given[0]), given[1:3]
        w, low = RwkvDecayMix.decays(p, up, base)
        small, state = tuple(full(x) for x in given[3:6]), full(given[6])
        o, new, saved, raw = RwkvMix.run(p, w, small, state, logw_min, keep=True)
        ctx.save_for_backward(p, w, low, up, *small, saved, raw)
        ctx.logw_min, ctx.types = logw_min, [x.dtype for x in given[1:]]
        ctx.set_materialize_grads(False)
        return o, new

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_o: Tensor | None, d_new: Tensor | None) -> tuple[Any, ...]:
        p, w, low, up, u, norm_weight, norm_bias, saved, raw = ctx.saved_tensors
        dw = torch.empty(w.shape, dtype=p.dtype)
        dp, d_small, d_state = RwkvMix.run_back(
            p, w, (u, norm_weight, norm_bias), saved, raw, ctx.logw_min, d_o, d_new, dw
        )
        width, dw_RD = w.shape[2], dw.view(-1, w.shape[2])
        with torch.autocast("cpu", enabled=False):
            d_low = torch.ops.aten.tanh_backward(dw_RD @ up.to(p.dtype), low)
            dp[..., 4 * width :] = d_low.view(*p.shape[:2], low.shape[1])
            d_up, d_base = dw_RD.t() @ low, dw_RD.sum(0, dtype=torch.float32)
        grads = (d_up, d_base, *d_small, d_state)
        return None, dp, *(x.to(kind) for x, kind in zip(grads, ctx.types, strict=True))


# Mamba-2 ------------------------------------------------------------------------------------------


class SsdScan(torch.autograd.Function):
    """The bare recurrence. y is float32."""

    @staticmethod
    def record(x: Tensor, loga: Tensor, b: Tensor, c: Tensor) -> Ssd:
        batch, time, num_heads, size = x.shape
        return Ssd(
            B=batch, T=time, H=num_heads, P=size, N=b.shape[2], threads=torch.get_num_threads(),
            x=heads(x), loga=loga.data_ptr(), b=row(b), c=row(c),
        )  # fmt: skip

    @staticmethod
    def run(
        x: Tensor, loga: Tensor, b: Tensor, c: Tensor, state: Tensor, *, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """y, the new state, and the states that backward needs."""
        y, new = torch.empty(x.shape), torch.empty_like(state)
        saved = _saved_states(state, x.shape[1]) if keep else None
        record = SsdScan.record(x, loga, b, c)
        record.state, record.state_out = state.data_ptr(), new.data_ptr()
        record.y, record.saved = heads(y), pointer(saved)
        call("ssd_forward", record)
        return y, new, saved

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor]:
        x, b, c = (dense(given[place]) for place in (0, 2, 3))
        loga, state = full(given[1]), full(given[4])
        y, new, saved = SsdScan.run(x, loga, b, c, state, keep=True)
        ctx.save_for_backward(x, loga, b, c, saved)
        ctx.types = given[1].dtype, given[4].dtype
        ctx.set_materialize_grads(False)
        return y, new

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor | None, d_new: Tensor | None) -> tuple[Tensor, ...]:
        x, loga, b, c, saved = ctx.saved_tensors
        d_y = torch.zeros(x.shape) if d_y is None else dense(d_y)
        d_new = _state_grad(d_new)
        dx, db, dc = (torch.empty(y.shape, dtype=y.dtype) for y in (x, b, c))
        dloga = torch.empty_like(loga)
        d_state = torch.empty(x.shape[0], *x.shape[2:], b.shape[2])
        record = SsdScan.record(x, loga, b, c)
        record.saved, record.d_y = saved.data_ptr(), heads(d_y)
        record.dx, record.db, record.dc = heads(dx), row(db), row(dc)
        record.dloga, record.d_state = dloga.data_ptr(), d_state.data_ptr()
        record.d_state_out = pointer(d_new)
        call("ssd_backward", record)
        for_loga, for_state = ctx.types
        return dx, dloga.to(for_loga), db, dc, d_state.to(for_state)


class MambaMix(torch.autograd.Function):
    """From the projection to the gated, normalised output."""

    @staticmethod
    def record(p: Tensor, small: tuple[Tensor, ...], conv_state: Tensor, like: Tensor) -> Ssd:
        """`like` has the shape of the state; `small` are the parameters in the order of `given`."""
        _, num_heads, size, d_state = like.shape
        record = Ssd(
            B=p.shape[0], T=p.shape[1], H=num_heads, P=size, N=d_state, W=small[0].shape[1],
            threads=torch.get_num_threads(), norm_eps=NORM_EPS, p=row(p),
            conv_state=conv_state.data_ptr(),
        )  # fmt: skip
        names = ("conv_weight", "conv_bias", "dt_bias", "a_log", "skip", "norm_weight")
        for name, tensor in zip(names, small, strict=True):
            setattr(record, name, tensor.data_ptr())
        return record

    @staticmethod
    def run(
        p: Tensor, small: tuple[Tensor, ...], conv_state: Tensor, state: Tensor, *, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """The output, both new states, and what backward needs: states, y before its gate."""
        shape = (*p.shape[:2], small[5].shape[0])
        o = torch.empty(shape, dtype=p.dtype)
        new_conv, new = torch.empty_like(conv_state), torch.empty_like(state)
        saved = _saved_states(state, p.shape[1]) if keep else None
        raw = torch.empty(shape) if keep else None
        record = MambaMix.record(p, small, conv_state, state)
        record.state, record.state_out = state.data_ptr(), new.data_ptr()
        record.conv_state_out, record.y = new_conv.data_ptr(), row(o)
        record.saved, record.raw = pointer(saved), pointer(raw)
        call("ssd_forward", record)
        return o, new_conv, new, saved, raw

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p = dense(given[0])
        small = tuple(full(x) for x in given[1:7])
        conv_state, state = full(given[7]), full(given[8])
        o, new_conv, new, saved, raw = MambaMix.run(p, small, conv_state, state, keep=True)
        ctx.save_for_backward(p, *small, conv_state, saved, raw)
        ctx.types = [x.dtype for x in given]
        ctx.set_materialize_grads(False)
        return o, new_conv, new

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_o: Tensor | None, d_new_conv: Tensor | None, d_new: Tensor | None
    ) -> tuple[Tensor, ...]:
        p, *small, conv_state, saved, raw = ctx.saved_tensors
        d_o = torch.zeros(raw.shape) if d_o is None else dense(d_o)
        d_new_conv, d_new = _state_grad(d_new_conv), _state_grad(d_new)
        batch = p.shape[0]
        dp = torch.empty(p.shape, dtype=p.dtype)
        d_small = [torch.empty(batch, *x.shape) for x in small]
        d_state, d_conv = torch.empty(batch, *saved.shape[2:]), torch.empty_like(conv_state)
        record = MambaMix.record(p, tuple(small), conv_state, d_state)
        record.saved, record.raw = saved.data_ptr(), raw.data_ptr()
        record.d_y, record.dp = row(d_o), row(dp)
        record.d_state_out, record.d_conv_state_out = pointer(d_new), pointer(d_new_conv)
        record.d_state, record.d_conv_state = d_state.data_ptr(), d_conv.data_ptr()
        names = ("conv_weight", "conv_bias", "dt_bias", "a_log", "skip", "norm_weight")
        for name, tensor in zip(names, d_small, strict=True):
            setattr(record, f"d_{name}", tensor.data_ptr())
        call("ssd_backward", record)
        grads = [dp, *(x.sum(0) for x in d_small), d_conv, d_state]
        return tuple(x.to(kind) for x, kind in zip(grads, ctx.types, strict=True))


# What needs no recurrence -------------------------------------------------------------------------


def flat_rows(x: Tensor) -> Tensor:
    """(rows, C); a view wherever the rows stand at equal distances."""
    return dense(x).reshape(-1, x.shape[-1])


class AddNorm(torch.autograd.Function):
    """x + dropout(y) and the norm of that."""

    @staticmethod
    def run(
        x: Tensor, y: Tensor | None, weight: Tensor, dropout: float, seed: int, kind: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        x_RD = flat_rows(x)
        n = torch.empty(x.shape, dtype=kind)
        s = x if y is None else torch.empty(x.shape, dtype=x.dtype)
        record = Norm(
            rows=x_RD.shape[0], D=x.shape[-1], threads=torch.get_num_threads(), eps=NORM_EPS,
            dropout=dropout, seed=seed, x=rows(x_RD), n=rows(flat_rows(n)),
            weight=weight.data_ptr(),
        )  # fmt: skip
        if y is not None:
            y_RD = flat_rows(y)
            record.y, record.s = rows(y_RD), rows(flat_rows(s))
        call("norm_forward", record)
        return s, n

    @staticmethod
    def forward(
        ctx: Any, dropout: float, seed: int, kind: torch.dtype, x: Tensor, y: Tensor | None,
        weight: Tensor,
    ) -> tuple[Tensor, Tensor] | Tensor:  # fmt: skip
        w = full(weight)
        s, n = AddNorm.run(x, y, w, dropout, seed, kind)
        ctx.save_for_backward(s, w)
        ctx.dropout, ctx.seed = dropout, seed
        ctx.y_type, ctx.weight_type = None if y is None else y.dtype, weight.dtype
        ctx.set_materialize_grads(False)
        return n if y is None else (s, n)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        s, weight = ctx.saved_tensors
        d_s = grads[0] if ctx.y_type is not None else None
        d_n = grads[-1]
        if d_n is None:
            d_n = torch.zeros(s.shape, dtype=s.dtype)
        s_RD, d_n_RD = flat_rows(s), flat_rows(d_n)
        dx = torch.empty(s.shape, dtype=s.dtype)
        d_weight = torch.empty(BLOCKS, s.shape[-1])
        record = Norm(
            rows=s_RD.shape[0], D=s.shape[-1], threads=torch.get_num_threads(), eps=NORM_EPS,
            dropout=ctx.dropout, seed=ctx.seed, s=rows(s_RD), d_n=rows(d_n_RD),
            dx=rows(flat_rows(dx)), weight=weight.data_ptr(), d_weight=d_weight.data_ptr(),
        )  # fmt: skip
        if d_s is not None:
            d_s_RD = flat_rows(d_s)
            record.d_s = rows(d_s_RD)
        dy = None
        if ctx.y_type is not None:
            # Without dropout and in one type, both summands have the same gradient.
            if not ctx.dropout and ctx.y_type == dx.dtype:
                dy = dx
            else:
                dy = torch.empty(s.shape, dtype=ctx.y_type)
                record.dy = rows(flat_rows(dy))
        call("norm_backward", record)
        return None, None, None, dx, dy, d_weight.sum(0).to(ctx.weight_type)


class GatedSum(torch.autograd.Function):
    """One gate per position between two branches."""

    @staticmethod
    def record(r: Tensor, m: Tensor, weight: Tensor, normed: bool) -> Gate:
        return Gate(
            rows=r.shape[0], D=r.shape[1], threads=torch.get_num_threads(), normed=int(normed),
            r=rows(r), m=rows(m), weight=weight.data_ptr(), eps=NORM_EPS,
        )  # fmt: skip

    @staticmethod
    def run(
        r: Tensor, m: Tensor, weight: Tensor, bias: Tensor, normed: bool, *, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        r_RD, m_RD = flat_rows(r), flat_rows(m)
        out = torch.empty(r.shape, dtype=r.dtype)
        kept = torch.empty(r_RD.shape[0], 3) if keep else None
        record = GatedSum.record(r_RD, m_RD, weight, normed)
        record.out, record.bias, record.kept = rows(flat_rows(out)), bias.data_ptr(), pointer(kept)
        call("gate_forward", record)
        return out, kept

    @staticmethod
    def forward(
        ctx: Any, r: Tensor, m: Tensor, weight: Tensor, bias: Tensor, normed: bool
    ) -> Tensor:
        w = full(weight)
        out, kept = GatedSum.run(r, m, w, full(bias), normed, keep=True)
        ctx.save_for_backward(r, m, w, kept)
        ctx.shapes, ctx.normed = ((weight.shape, weight.dtype), (bias.shape, bias.dtype)), normed
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        r, m, weight, kept = ctx.saved_tensors
        r_RD, m_RD, d_out_RD = flat_rows(r), flat_rows(m), flat_rows(d_out)
        dr, dm = torch.empty(r.shape, dtype=r.dtype), torch.empty(r.shape, dtype=r.dtype)
        width = r.shape[-1]
        sums = torch.empty(BLOCKS, 2 * width + 1)
        record = GatedSum.record(r_RD, m_RD, weight, ctx.normed)
        record.kept, record.d_out = kept.data_ptr(), rows(d_out_RD)
        record.dr, record.dm = rows(flat_rows(dr)), rows(flat_rows(dm))
        record.d_weight = sums.data_ptr()
        call("gate_backward", record)
        total = sums.sum(0)
        (shape, kind), (bias_shape, bias_kind) = ctx.shapes
        return (
            dr, dm, total[:-1].view(shape).to(kind), total[-1:].view(bias_shape).to(bias_kind),
            None,
        )  # fmt: skip


class Relu2(torch.autograd.Function):
    """max(x, 0) ** 2 of a contiguous tensor."""

    @staticmethod
    def run(x: Tensor) -> Tensor:
        y = torch.empty_like(x)
        call("relu2_forward", Flat(
            size=x.numel(), threads=torch.get_num_threads(), x=_flat(x), y=_flat(y),
        ))  # fmt: skip
        return y

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return Relu2.run(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        d_y, dx = d_y.contiguous(), torch.empty_like(x)
        call("relu2_backward", Flat(
            size=x.numel(), threads=torch.get_num_threads(), x=_flat(x), d_y=_flat(d_y),
            dx=_flat(dx),
        ))  # fmt: skip
        return dx


def _flat(x: Tensor) -> Strided:
    return Strided(x.data_ptr(), 0, 0, 0, x.dtype == torch.bfloat16)
