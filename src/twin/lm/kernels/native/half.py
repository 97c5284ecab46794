"""Products in half precision for processors with AVX512-FP16: `half_linear` for layers and
`half_orthogonalize` for Muon.

Owns the C interface of half.cpp and the memory that a forward pass keeps for its backward pass (the
input in half precision, half of what torch would keep). Inputs, weights, outputs and gradients are
float32; half.h says how far they are off.
"""

import ctypes
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from twin.lm.errors import KernelUnavailable
from twin.lm.kernels.native import build
from twin.lm.kernels.native.ops import torch_openmp
from twin.lm.precision import has_fp16

log = logging.getLogger(__name__)

SOURCE: Final = Path(__file__).with_name("half.cpp")
FLAGS: Final = ["-O3", "-mavx512fp16"]
ABI: Final = 2
ROWS_MIN: Final = 128
"""With fewer the weights' conversion costs more than is won: measured break-even near 80."""
SIZE_MIN: Final = 64
"""The same for inputs and outputs of a layer."""
GROUP_MAX: Final = 252
"""Rows that share a scale, a multiple of 12; half.h's CHUNK is the bound."""
TALL: Final = 12
LANES: Final = 32
INPUT: Final = 32
GRADIENT: Final = 24
"""Columns of a panel; half.h has the same."""
NUMBER: Final = ctypes.c_int64
POINTER: Final = ctypes.c_void_p


class Linear(ctypes.Structure):
    _fields_ = [
        *((name, NUMBER) for name in ["rows", "outputs", "inputs", "threads", "group", "stride"]),
        ("x", POINTER), ("ldx", NUMBER), ("weight", POINTER), ("ldw", NUMBER),
        *((name, POINTER) for name in ["packed_weight", "packed_x", "x_scale", "y", "dy"]),
        ("ldy", NUMBER),
        *((name, POINTER) for name in ["packed_dy", "dy_scale", "dx", "dw"]),
    ]  # fmt: skip


class Newton(ctypes.Structure):
    _fields_ = [
        *((name, NUMBER) for name in ["matrices", "rows", "columns", "threads", "steps"]),
        *((name, POINTER) for name in ["x", "coefficients"]),
    ]  # fmt: skip


@cache
def _reason_at(level: str) -> str | None:
    try:
        _library_at(level)
    except KernelUnavailable as error:
        if has_fp16():
            log.warning("Products stay in float32: %s", error)
        return str(error)
    return None


@cache
def _library_at(level: str) -> ctypes.CDLL:
    if not has_fp16():
        raise KernelUnavailable("This processor has no AVX512-FP16. Use the precision fp32.")
    if level != "avx512":
        raise KernelUnavailable(f"TWIN_LM_ISA is {level}, without AVX512-FP16. Unset it.")
    found = build.load(SOURCE, torch_openmp(), extra=FLAGS)
    assert found.twin_half_abi() == ABI
    return found


def library() -> ctypes.CDLL:
    """Built for this machine. Raises KernelUnavailable with the reason."""
    return _library_at(build.level())


def available() -> str | None:
    """None where half precision runs (it is built if need be), else the reason."""
    return _reason_at(build.level())


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `half_linear` takes these, and is faster than float32."""
    return (
        x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() >= ROWS_MIN * x.shape[-1]
        and min(weight.shape) >= SIZE_MIN
    )


def half_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., K) times weight (N, K) transposed, (..., N); float32 on a CPU.

    Relative L2 error about 1e-3, of both gradients too. Sums do not overflow; a NaN or an infinity
    in the input comes out as in float32. An element more than 1e8 below the greatest of its
    neighbouring rows counts as zero. Raises KernelUnavailable.
    """
    assert x.dtype == weight.dtype == torch.float32
    assert x.device.type == weight.device.type == "cpu"
    assert x.shape[-1] == weight.shape[1]
    if not x.numel() or not weight.numel():
        return F.linear(x, weight)
    if not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)):
        return _forward(x, weight)[0]
    y: Tensor = HalfLinear.apply(  # type: ignore[no-untyped-call]
        x, weight
    )
    return y


class HalfLinear(torch.autograd.Function):
    """y = x weight^T with both gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        y, packed_x, x_scale = _forward(x, weight)
        ctx.save_for_backward(weight, packed_x, x_scale)
        ctx.shape = x.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        weight, packed_x, x_scale = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad
        flat, weight = _rows(dy), _rows(weight)
        outputs, inputs = weight.shape
        call = _shaped(flat.shape[0], outputs, inputs)
        packed_dy, dy_scale = _panels(call, outputs, GRADIENT)
        packed_weight = torch.empty(_up(inputs, LANES) * outputs, dtype=torch.float16)
        dx = torch.empty(ctx.shape, dtype=torch.float32) if wants_x else None
        dw = torch.empty(weight.shape, dtype=torch.float32) if wants_weight else None
        call.weight, call.ldw = weight.data_ptr(), weight.stride(0)
        call.dy, call.ldy = flat.data_ptr(), flat.stride(0)
        call.packed_weight, call.packed_x = packed_weight.data_ptr(), packed_x.data_ptr()
        call.packed_dy, call.x_scale = packed_dy.data_ptr(), x_scale.data_ptr()
        call.dy_scale = dy_scale.data_ptr()
        call.dx = dx.data_ptr() if dx is not None else None
        call.dw = dw.data_ptr() if dw is not None else None
        library().twin_half_backward(ctypes.byref(call))
        return dx, dw


def _forward(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The product, and the converted input with its scales."""
    flat, dense = _rows(x), _rows(weight)
    outputs, inputs = dense.shape
    call = _shaped(flat.shape[0], outputs, inputs)
    packed_x, x_scale = _panels(call, inputs, INPUT)
    packed_weight = torch.empty(_up(outputs, LANES) * inputs, dtype=torch.float16)
    y = torch.empty(*x.shape[:-1], outputs, dtype=torch.float32)
    call.x, call.ldx = flat.data_ptr(), flat.stride(0)
    call.weight, call.ldw = dense.data_ptr(), dense.stride(0)
    call.packed_weight, call.packed_x = packed_weight.data_ptr(), packed_x.data_ptr()
    call.x_scale, call.y = x_scale.data_ptr(), y.data_ptr()
    library().twin_half_forward(ctypes.byref(call))
    return y, packed_x, x_scale


def half_orthogonalize(x_KMN: Tensor, coefficients: Sequence[tuple[float, float, float]]) -> Tensor:
    """`muon.orthogonalize` with M <= N, from products in half precision: a new float32 tensor.

    Relative L2 error about 1e-2, half of bfloat16's. A matrix of zeros stays zeros, one that is not
    finite comes out so. The same to the last bit with any number of threads. Raises
    KernelUnavailable, and MemoryError.
    """
    assert x_KMN.dtype == torch.float32
    assert x_KMN.device.type == "cpu"
    matrices, rows, columns = x_KMN.shape
    assert rows <= columns
    out_KMN = x_KMN.clone(memory_format=torch.contiguous_format)
    factors = torch.tensor(coefficients, dtype=torch.float32)
    call = Newton(
        matrices, rows, columns, torch.get_num_threads(), len(coefficients), out_KMN.data_ptr(),
        factors.data_ptr(),
    )  # fmt: skip
    if library().twin_half_newton(ctypes.byref(call)):
        raise MemoryError(f"no memory to orthogonalise {rows} x {columns}")
    return out_KMN


def _rows(x: Tensor) -> Tensor:
    """(rows, columns) with the columns next to each other."""
    flat = x.detach().reshape(-1, x.shape[-1])
    return flat if flat.stride(1) == 1 else flat.contiguous()


def _shaped(rows: int, outputs: int, inputs: int) -> Linear:
    """Groups of equal size, an even number of them, so that two threads share them."""
    groups = _up(-(-rows // GROUP_MAX), 2)
    group = min(_up(-(-rows // groups), TALL), GROUP_MAX)
    # Panels a multiple of 1 KiB apart would compete for few sets of the first-level cache.
    stride = group + 4 if group % 16 == 0 else group
    return Linear(rows, outputs, inputs, torch.get_num_threads(), group, stride)


def _panels(call: Linear, columns: int, width: int) -> tuple[Tensor, Tensor]:
    """Memory for `columns` of all rows in half precision, and for the scales of their groups."""
    groups = -(-call.rows // call.group)
    kept = groups if width == INPUT or call.threads > 1 else 1
    size = kept * _up(columns, width) * call.stride
    return torch.empty(size, dtype=torch.float16), torch.empty(groups, dtype=torch.int32)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
