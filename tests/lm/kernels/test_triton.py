"""Triton's kernels, where no GPU is: in its interpreter, and compiled for a GPU that is not there.

The package is no requirement (it weighs 290 MB); without it these tests are skipped and say so.
`pip install triton` runs them on any Linux machine.
"""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch

from twin.lm.errors import KernelUnavailable
from twin.lm.kernels.registry import choose

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="OUR TRITON KERNELS ARE NOT TESTED: the package triton is not installed",
)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["triton", "fla"])
def test_without_a_gpu_the_reason_is_said(name: str) -> None:
    with pytest.raises(KernelUnavailable, match=r"need.* Use the kernels `auto`|or use the"):
        choose(name)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("op", ["wkv6", "ssd"])
def test_the_interpreted_kernels_are_the_loops(op: str) -> None:
    # In a process of its own: Triton decides at import whether it interprets.
    done = subprocess.run(
        [sys.executable, "-m", "twin.lm.kernels.selfcheck", "--device", "cpu", "--json",
         "--backend", "triton", "--op", op, "--length", "18"],
        env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert {row["precision"] for row in rows} == {"float64", "float32", "bfloat16"}
    assert all(row["error"] < 1e-14 for row in rows if row["precision"] == "float64")


GRIDS = """
import torch
from twin.lm.kernels import triton as ours

grids = []
class Recorder:
    def __getitem__(self, grid):
        grids.append(grid)
        return lambda *given, **more: None

ours._wkv6_forward_kernel = ours._ssd_forward_kernel = Recorder()
B, T, H, size = 5, 2, 3, 16
four = torch.zeros(B, T, H, size)
ours._wkv6(four, four, four, four, torch.zeros(H, size), torch.zeros(B, H, size, size))
shared = torch.zeros(B, T, size)
ours._ssd(four, torch.zeros(B, T, H), shared, shared, torch.zeros(B, H, size, size))
assert [grid[0] for grid in grids] == [B * H] * 2, grids
"""


@needs_triton
def test_batch_and_heads_lie_on_the_axis_without_a_limit() -> None:
    # The other axes of a grid end at 65,535.
    subprocess.run(
        [sys.executable, "-c", GRIDS], env=os.environ | {"TRITON_INTERPRET": "1"}, check=True
    )


COMPILE = """
import sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
import triton.language as tl
from twin.lm.kernels import triton as ours

size, kind = int(sys.argv[1]), sys.argv[2]
shapes = {
    "wkv6": {"K": size, "V": size, "BK": size, "BV": 16},
    "ssd": {"P": size, "N": size, "BP": 16, "BN": size},
}
activations = {"r", "k", "v", "o", "d_o", "d_v", "x", "b", "c", "y", "d_y", "d_x"}
for op, shape in shapes.items():
    for way in ("forward", "backward"):
        kernel = getattr(ours, f"_{op}_{way}_kernel")
        fixed = {**shape, "EVERY": ours.EVERY, "ACC": tl.float32}
        types = {
            name: "constexpr" if name in fixed
            else "i32" if name in ("T", "H") or name.endswith("_row")
            else f"*{kind if name in activations else 'fp32'}"
            for name in kernel.arg_names
        }
        places = {(kernel.arg_names.index(name),): value for name, value in fixed.items()}
        made = compile(
            ASTSource(kernel, types, places), target=GPUTarget("cuda", 90, 32),
            options={"num_warps": ours._warps(size)},
        )
        assert len(made.asm["cubin"]) > 1000
"""


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(("size", "kind"), [(32, "fp32"), (64, "bf16")])
def test_the_kernels_compile_for_a_hopper_gpu(size: int, kind: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(size), kind],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
