"""The border to `decode.cpp`: its structs, its functions, and filling them from a model.

Owns which networks the native code knows (`why_not`) and where each parameter goes. The structs
here and there are compared by size when the library is loaded.
"""

import ctypes
from ctypes import POINTER, c_double, c_float, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twin.lm import processor
from twin.lm.config import HybridConfig
from twin.lm.decode.packing import FORMS, Arena, Weights
from twin.lm.errors import KernelUnavailable
from twin.lm.kernels.composed import HEAD_NORM_EPS, NORM_EPS
from twin.lm.kernels.native import build

if TYPE_CHECKING:
    from torch import Tensor

    from twin.lm.model import HybridLM

SOURCE = Path(__file__).with_name("decode.cpp")
LANES = 16
"""Channels of the widest vector; heads and widths are whole numbers of them."""
MAX_HEAD_DIM = 256
MAX_MAMBA_HEADS = 1024
"""As MOST_HEADS in decode.cpp."""
FUSIONS = {"GF": 0, "HGF": 1, "WS": 2, "RF": 3, "HY": 4, "CP": 5}
ONLY = {"rwkv": 6, "mamba": 7}
MATRICES = (
    "rwkv.in_proj", "rwkv.decay_up", "rwkv.out_proj", "mamba.in_proj", "mamba.out_proj",
    "fuse.proj", "ffn.up", "ffn.down",
)  # fmt: skip
BYTE_DOTS = {
    "avx512": ("avx512_vnni", "vpdpbusd %zmm0, %zmm1, %zmm2"),
    "avx2": ("avx_vnni", "{vex} vpdpbusd %ymm0, %ymm1, %ymm2"),
}
"""Where there may be an instruction for products of bytes: its flag, and what an assembler says."""
KEPT = {"rwkv.decay_up": "bf16"}
"""Finer than asked for: an error in a decay is repeated at every token that follows."""


class Matrix(ctypes.Structure):
    """As in decode.cpp."""

    _fields_ = (
        ("weights", c_void_p), ("scales", c_void_p),
        ("rows", c_int32), ("cols", c_int32), ("kind", c_int32), ("pad", c_int32),
    )  # fmt: skip


VECTORS = (
    "norm1", "decay_base", "bonus", "group_weight", "group_bias", "conv_weight", "conv_bias",
    "dt_bias", "a", "skip", "mamba_norm", "fuse_a", "fuse_b", "norm2", "gamma_mix", "gamma_ffn",
)  # fmt: skip


class Layer(ctypes.Structure):
    """As in decode.cpp."""

    _fields_ = (
        *((name, Matrix) for name in MATRICES),
        *((name, c_void_p) for name in VECTORS),
    )


_NUMBERS = (
    "D", "H", "K", "Hm", "P", "N", "W", "R", "F", "VO", "layers", "fusion",
)  # fmt: skip


class Network(ctypes.Structure):
    """As in decode.cpp."""

    _fields_ = (
        *((name, c_int32) for name in _NUMBERS),
        ("eps", c_float), ("head_eps", c_float), ("logw_min", c_float),
        ("state_floats", c_int32), ("layer_floats", c_int32), ("branch_norm", c_int32),
        ("recent", c_int32), ("window", c_int32), ("ngram_max", c_int32), ("ngram_rows", c_int32),
        ("part", c_int32), ("features", c_int32), ("looked_up", c_uint32), ("pad", c_uint32),
        ("context", c_void_p), ("context_projection", Matrix),
        ("embed", c_void_p), ("final_norm", c_void_p), ("layer", POINTER(Layer)),
        ("head", Matrix),
    )  # fmt: skip


def why_not(model: "HybridLM") -> str:
    """The first thing about this network that the native code does not know; empty if it can."""
    c = model.config
    head_dims = [(c.has_rwkv, "head_dim"), (c.has_mamba, "mamba_head_dim"), (True, "d_model")]
    odd = [name for used, name in head_dims if used and getattr(c, name) % LANES]
    faults = {
        "an attention anchor": bool(c.attention_every),
        "token shift": c.has_rwkv and c.token_shift != "none",
        "fusion MINGRU": c.pathways == "both" and c.fusion == "MINGRU",
        "grouped state norm": bool(c.state_norm_groups),
        f"{', '.join(odd)} no multiple of {LANES}": bool(odd),
        f"head_dim over {MAX_HEAD_DIM}": c.head_dim > MAX_HEAD_DIM,
        f"more than {MAX_MAMBA_HEADS} Mamba heads": c.has_mamba and c.mamba_heads > MAX_MAMBA_HEADS,
        "a silenced part": any(one.ablate for one in (*model.blocks, model.context) if one),
    }
    return next((fault for fault, is_so in faults.items() if is_so), "")


def has_byte_dots() -> bool:
    """Whether bytes are multiplied by the instruction for it: else they are widened, which gives
    the same to the bit."""
    flag, instruction = BYTE_DOTS.get(build.level(), ("", ""))
    return flag in processor.flags() and build.assembles(instruction)


@cache
def load() -> ctypes.CDLL:
    """The native code with its functions' types, built the first time. Raises KernelUnavailable
    with the reason."""
    library = build.load(SOURCE, extra=["-DTWIN_BYTE_DOTS"] if has_byte_dots() else [])
    library.decode_sizes.restype = c_int64
    ours = tuple(ctypes.sizeof(each) for each in (Matrix, Layer, Network))
    theirs = tuple(library.decode_sizes(number) for number in range(3))
    if ours != theirs:
        raise KernelUnavailable(
            f"decode.cpp has structs of {theirs} bytes where {ours} are expected. Install one "
            "version of the package."
        )
    for name in ("decode_scratch", "decode_logits_stride"):
        getattr(library, name).restype = c_int64
    library.decode_scratch.argtypes = [POINTER(Network), c_int64]
    library.decode_logits_stride.argtypes = [POINTER(Network)]
    library.decode_step.argtypes = [POINTER(Network), *[c_void_p] * 4, c_int64]
    library.decode_step.restype = None
    library.decode_run.argtypes = [
        POINTER(Network), *[c_void_p] * 4, c_int64, c_int64, c_double, c_void_p, c_int64,
        c_void_p, c_void_p,
    ]  # fmt: skip
    library.decode_run.restype = None
    library.decode_uniform.argtypes = [c_uint64, c_uint64]
    library.decode_uniform.restype = c_double
    return library


class Packed:
    """A model's weights in the form and order of the native code. Keeps the memory alive that
    `network` points into."""

    def __init__(self, model: "HybridLM", weights: Weights) -> None:
        self.forms: dict[str, Weights] = {}
        """What each matrix became, by its parameter's name."""
        self._arena = Arena()
        self._parameters = dict(model.named_parameters())
        c = model.config
        self.layers = (Layer * c.n_layers)()
        self.network = _shape(c)
        self.network.layer = ctypes.cast(self.layers, POINTER(Layer))
        self._later: list[tuple[Any, str, int]] = []
        for number, layer in enumerate(self.layers):
            self._fill(layer, f"blocks.{number}.", c, weights)
        if model.context is not None:
            self._vector(self.network, "context", model.context.table)
            name, projection = "context.projection", model.context.projection.weight
            self._matrix(self.network.context_projection, name, projection, weights)
        self._vector(self.network, "embed", model.embed.weight)
        self._vector(self.network, "final_norm", model.norm.weight)
        self._matrix(self.network.head, "head", model.head_weight, weights)
        self._arena.seal()
        for struct, name, place in self._later:
            setattr(struct, name, self._arena.address(place))
        self._later.clear()
        self._parameters.clear()

    @property
    def num_bytes(self) -> int:
        """Of all weights as they lie in memory."""
        return self._arena.num_bytes

    def _fill(self, layer: Layer, prefix: str, c: HybridConfig, weights: Weights) -> None:
        found = {
            name.removeprefix(prefix): value
            for name, value in self._parameters.items()
            if name.startswith(prefix)
        }
        for name in MATRICES:
            value = found.get(f"{name}.weight")
            if value is not None:
                form = KEPT[name] if name in KEPT and weights == "int8" else weights
                self._matrix(getattr(layer, name), prefix + name, value, form)  # type: ignore[arg-type]
        vectors = {
            "norm1": "norm1.weight", "decay_base": "rwkv.decay_base", "bonus": "rwkv.bonus",
            "group_weight": "rwkv.norm.weight", "group_bias": "rwkv.norm.bias",
            "conv_bias": "mamba.conv_bias", "dt_bias": "mamba.dt_bias", "skip": "mamba.skip",
            "mamba_norm": "mamba.norm.weight", "norm2": "norm2.weight",
            "gamma_mix": "gammas.0", "gamma_ffn": "gammas.1", **_FUSE_VECTORS.get(c.fusion, {}),
        }  # fmt: skip
        for field, name in vectors.items():
            if name in found:
                self._vector(layer, field, found[name])
        if c.has_mamba:
            self._vector(layer, "conv_weight", found["mamba.conv_weight"].t())
            self._vector(layer, "a", -found["mamba.a_log"].float().exp())

    def _vector(self, struct: Any, field: str, value: "Tensor") -> None:
        numbers = _numpy(value).reshape(-1)
        # Vector loads may run past the end, never past the padding.
        padded = np.pad(numbers, (0, -len(numbers) % LANES))
        self._later.append((struct, field, self._arena.add(padded)))

    def _matrix(self, struct: Matrix, name: str, value: "Tensor", form: Weights) -> None:
        kind, pack = FORMS[form]
        panels, scales = pack(_numpy(value))
        struct.rows, struct.cols = value.shape
        struct.kind = kind
        self.forms[name] = form
        self._later.append((struct, "weights", self._arena.add(panels)))
        self._later.append((struct, "scales", self._arena.add(scales)))


_FUSE_VECTORS = {
    "GF": {"fuse_a": "fuse.weight", "fuse_b": "fuse.bias"},
    "WS": {"fuse_a": "fuse.share"},
    "RF": {"fuse_a": "fuse.weight"},
    "HY": {"fuse_a": "fuse.for_rwkv", "fuse_b": "fuse.for_mamba"},
    "HGF": {"fuse_b": "fuse.proj.bias"},
}


def layer_floats(c: HybridConfig) -> int:
    """Numbers of one layer's state."""
    rwkv = c.d_model * c.head_dim if c.has_rwkv else 0
    conv = (c.conv_width - 1) * c.conv_channels
    return rwkv + (conv + c.d_inner * c.d_state if c.has_mamba else 0)


def state_floats(c: HybridConfig) -> int:
    """Numbers of one stream's state, up to a whole cache line."""
    return -(-(c.n_layers * layer_floats(c) + c.num_recent) // LANES) * LANES


def _shape(c: HybridConfig) -> Network:
    return Network(
        D=c.d_model, H=c.n_heads, K=c.head_dim, Hm=c.mamba_heads, P=c.mamba_head_dim, N=c.d_state,
        W=c.conv_width, R=c.decay_rank, F=c.d_ffn, VO=c.vocab_size, layers=c.n_layers,
        fusion=FUSIONS[c.fusion] if c.pathways == "both" else ONLY[c.pathways],
        eps=NORM_EPS, head_eps=HEAD_NORM_EPS, logw_min=c.logw_min,
        state_floats=state_floats(c), layer_floats=layer_floats(c),
        branch_norm=int((c.branch_norm or c.fusion == "HY") and c.pathways == "both"),
        recent=c.num_recent, window=c.induction_window if c.induction_max else 0,
        ngram_max=c.ngram_max, ngram_rows=c.ngram_rows, part=c.ngram_dim,
        features=len(c.ngram_lengths) + len(c.induction_lengths),
        looked_up=sum(1 << (length - 1) for length in c.induction_lengths),
    )  # fmt: skip


def _numpy(value: "Tensor") -> Any:
    return value.detach().float().cpu().contiguous().numpy()
