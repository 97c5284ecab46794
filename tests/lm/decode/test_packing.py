"""What is packed is the matrix: each form is unpacked by hand and compared."""

import numpy as np
import pytest

from twin.lm.decode.packing import (
    ALIGNMENT,
    OFFSET,
    PANEL,
    Arena,
    aligned,
    as_bf16,
    as_fp32,
    as_int8,
)

SHAPES = [(1, 1), (32, 4), (33, 7), (65, 256), (100, 30)]


def matrix(rows: int, cols: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, cols)).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_is_kept_exactly(shape: tuple[int, int]) -> None:
    given = matrix(*shape)
    panels, _ = as_fp32(given)
    back = panels.transpose(0, 2, 1).reshape(-1, shape[1])
    assert np.array_equal(back[: shape[0]], given)
    assert not back[shape[0] :].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_is_rounded_to_the_nearest(shape: tuple[int, int]) -> None:
    given = matrix(*shape)
    panels, _ = as_bf16(given)
    bits = panels.transpose(0, 3, 2, 1).reshape(-1, shape[1])[: shape[0]]
    back = (bits.astype(np.uint32) << 16).view(np.float32)
    assert np.abs(back - given).max() <= np.abs(given).max() * 2**-8


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_within_half_a_level_of_its_row(shape: tuple[int, int]) -> None:
    given = matrix(*shape)
    given[0] = 0
    panels, scales = as_int8(given)
    assert panels.shape[2:] == (PANEL, 4)
    levels = panels.transpose(0, 2, 1, 3).reshape(len(scales), -1)[: shape[0], : shape[1]]
    back = (levels.astype(np.float32) - OFFSET) * scales[: shape[0], None]
    assert (np.abs(back - given) <= scales[: shape[0], None] * 0.501).all()


def test_everything_begins_at_a_cache_line() -> None:
    assert aligned(100).ctypes.data % ALIGNMENT == 0
    arena = Arena()
    places = [arena.add(np.arange(size, dtype=np.float32)) for size in (3, 17, 0, 5)]
    arena.seal()
    assert all(arena.address(place) % ALIGNMENT == 0 for place in places)
    assert arena.num_bytes == 64 + 128 + 64
