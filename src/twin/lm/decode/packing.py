"""Weights in the order in which the decode engine reads them: panels of 32 outputs.

Owns the three forms (`fp32`, `bf16`, `int8` with a scale per output) and the one block of memory in
which all panels of a network lie. Shapes: a matrix is (rows = outputs, cols = inputs) as in torch.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Weights = Literal["fp32", "bf16", "int8"]
Floats = npt.NDArray[np.float32]

PANEL = 32
ALIGNMENT = 64
"""Bytes of a cache line and of the widest vector."""
OFFSET = 128
"""int8 weights are stored above zero: the instruction multiplies unsigned by signed bytes, and
unsigned ones are the easier to widen."""
LARGEST = 127


def as_fp32(matrix: Floats) -> tuple[npt.NDArray[Any], Floats]:
    """[panel][col][32 outputs]; no scales."""
    panels = _padded(matrix).reshape(-1, PANEL, matrix.shape[1])
    return np.ascontiguousarray(panels.transpose(0, 2, 1)), np.empty(0, np.float32)


def as_bf16(matrix: Floats) -> tuple[npt.NDArray[Any], Floats]:
    """[panel][col][16][2]: outputs j and j + 16 side by side, rounded to the nearest even."""
    bits = _padded(matrix).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    panels = rounded.reshape(-1, 2, PANEL // 2, matrix.shape[1])
    return np.ascontiguousarray(panels.transpose(0, 3, 2, 1)), np.empty(0, np.float32)


def as_int8(matrix: Floats) -> tuple[npt.NDArray[Any], Floats]:
    """[panel][col / 4][32 outputs][4] and the scale of each output (padded to whole panels)."""
    padded = _padded(matrix)
    scales = np.abs(padded).max(axis=1) / LARGEST
    divisors = np.where(scales > 0, scales, 1).astype(np.float32)
    levels = np.rint(padded / divisors[:, None]).astype(np.int16) + OFFSET
    missing = -matrix.shape[1] % 4
    levels = np.pad(levels, ((0, 0), (0, missing)), constant_values=OFFSET).astype(np.uint8)
    panels = levels.reshape(-1, PANEL, levels.shape[1] // 4, 4)
    return np.ascontiguousarray(panels.transpose(0, 2, 1, 3)), scales.astype(np.float32)


FORMS: dict[Weights, tuple[int, Callable[[Floats], tuple[npt.NDArray[Any], Floats]]]] = {
    "fp32": (0, as_fp32),
    "bf16": (1, as_bf16),
    "int8": (2, as_int8),
}
"""Name -> (the number that the C++ side knows it by, what makes it)."""


def aligned(num_bytes: int) -> npt.NDArray[np.uint8]:
    """Memory that begins at a cache line: vectors that straddle two cost twice."""
    block = np.empty(num_bytes + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + num_bytes]


class Arena:
    """One block for all weights, so that the system can give large pages."""

    def __init__(self) -> None:
        self._pieces: list[npt.NDArray[Any]] = []
        self._offsets: list[int] = []
        self._size = 0
        self._block: npt.NDArray[np.uint8] | None = None

    def add(self, array: npt.NDArray[Any]) -> int:
        """Its place, to be turned into an address by `address` when all is there."""
        self._pieces.append(np.ascontiguousarray(array))
        self._offsets.append(self._size)
        self._size += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        return len(self._pieces) - 1

    def seal(self) -> None:
        """Copies everything into the block."""
        self._block = aligned(self._size)
        for piece, offset in zip(self._pieces, self._offsets, strict=True):
            self._block[offset : offset + piece.nbytes] = piece.reshape(-1).view(np.uint8)
        self._pieces.clear()

    def address(self, place: int) -> int:
        assert self._block is not None, "seal() first"
        return int(self._block.ctypes.data) + self._offsets[place]

    @property
    def num_bytes(self) -> int:
        return self._size


def _padded(matrix: Floats) -> Floats:
    """Rows up to a whole panel, the new ones zero."""
    matrix = np.ascontiguousarray(matrix, np.float32)
    return np.pad(matrix, ((0, -matrix.shape[0] % PANEL), (0, 0)))
