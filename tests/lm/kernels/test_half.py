"""Linear layers in half precision: how near they are to float64, and what they never lose."""

import os
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from twin.lm import processor
from twin.lm.config import HybridConfig
from twin.lm.errors import KernelUnavailable
from twin.lm.kernels.composed import Composed
from twin.lm.kernels.native import Native, half
from twin.lm.model import HybridLM
from twin.lm.muon import POLAR, Muon, orthogonalize
from twin.lm.precision import autocast, choose_precision, compute_dtype, is_half

CPU = torch.device("cpu")
REASON = half.available()
if REASON is not None and os.environ.get("TWIN_LM_NEED_HALF"):
    pytest.fail(f"TWIN_LM_NEED_HALF is set, and half precision cannot be tested: {REASON}")
needs_half = pytest.mark.skipif(REASON is not None, reason=f"HALF PRECISION UNTESTED: {REASON}")

SHAPES = [(256, 256, 1056), (300, 896, 256), (129, 64, 65), (13, 33, 7), (1, 1, 1), (505, 97, 131)]
"""Rows, inputs, outputs: whole tiles, then what is left over of every block size."""
TOLERANCE = 2e-3


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def products(
    linear: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """y, dx and dw."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = linear(x, weight)
    dx, dw = torch.autograd.grad(y, (x, weight), dy)
    return y.detach(), dx, dw


def errors(x: Tensor, weight: Tensor, dy: Tensor) -> list[float]:
    """Relative L2 of y, dx and dw against float64."""
    found = products(half.half_linear, x, weight, dy)
    wanted = products(F.linear, x.double(), weight.double(), dy.double())
    return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, wanted, strict=True)]


@needs_half
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_near_float64_at_every_size(shape: tuple[int, int, int]) -> None:
    rows, inputs, outputs = shape
    x, weight, dy = drawn(rows, inputs), drawn(outputs, inputs, seed=1), drawn(rows, outputs)
    assert max(errors(x, weight, dy)) < TOLERANCE


@needs_half
@pytest.mark.parametrize("x_scale", [1e-30, 1e-12, 1.0, 1e6, 1e18])
@pytest.mark.parametrize("dy_scale", [1e-12, 1.0, 1e6])
def test_the_size_of_numbers_does_not_matter(x_scale: float, dy_scale: float) -> None:
    x, dy = drawn(300, 96, scale=x_scale), drawn(300, 80, seed=1, scale=dy_scale)
    assert max(errors(x, drawn(80, 96, seed=2, scale=0.06), dy)) < TOLERANCE


@needs_half
@pytest.mark.parametrize("axis", [0, 1])
def test_rows_and_columns_a_million_times_apart_are_each_kept(axis: int) -> None:
    rows, inputs, outputs = 300, 128, 96
    spread = 10 ** torch.linspace(-3, 3, (rows, inputs)[axis])
    x = drawn(rows, inputs) * (spread[:, None] if axis == 0 else spread)
    weight, dy = drawn(outputs, inputs, seed=1), drawn(rows, outputs, seed=2)
    assert max(errors(x, weight, dy)) < TOLERANCE
    found = products(half.half_linear, x, weight, dy)[2 * axis]  # y's rows, dw's columns
    wanted = products(F.linear, x.double(), weight.double(), dy.double())[2 * axis]
    apart = (found - wanted).norm(dim=1 - axis) / wanted.norm(dim=1 - axis)
    assert apart.max() < 4 * TOLERANCE  # the smallest are below half precision's normal numbers


@needs_half
def test_sums_of_equal_signs_neither_overflow_nor_stick() -> None:
    x, weight, dy = torch.full((600, 512), 3.99), torch.full((70, 512), 1.99), torch.ones(600, 70)
    # Every step of a sum is rounded alike, which is the worst that can be.
    assert max(errors(x, weight, dy)) < 5e-3
    positive = [drawn(*shape, seed=3).abs() for shape in ((600, 512), (70, 512), (600, 70))]
    assert max(errors(*positive)) < TOLERANCE


@needs_half
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_comes_out_where_float32_has_it(value: float) -> None:
    x, weight, dy = drawn(300, 96), drawn(80, 96, seed=1), drawn(300, 80, seed=2)
    for place in (x, weight, dy):
        kept = place[7, 5].item()
        place[7, 5] = value
        found, wanted = products(half.half_linear, x, weight, dy), products(F.linear, x, weight, dy)
        for ours, theirs in zip(found, wanted, strict=True):
            assert torch.equal(ours.isfinite(), theirs.isfinite())
            assert torch.equal(ours.isnan(), theirs.isnan())
            some = theirs.isfinite()
            assert (ours[some] - theirs[some]).norm() < TOLERANCE * theirs[some].norm()
        place[7, 5] = kept


@needs_half
def test_zeros_give_zeros() -> None:
    x, weight, dy = torch.zeros(140, 70), drawn(66, 70), torch.zeros(140, 66)
    assert all(not product.any() for product in products(half.half_linear, x, weight, dy))
    assert not half.half_linear(drawn(140, 70), torch.zeros(66, 70)).any()


@needs_half
def test_nothing_at_all_gives_nothing() -> None:
    assert half.half_linear(torch.zeros(0, 70), drawn(66, 70)).shape == (0, 66)
    assert not half.half_linear(torch.zeros(5, 0), torch.zeros(66, 0)).any()


@needs_half
def test_views_need_no_copy_and_give_the_same() -> None:
    wide, weight = drawn(3, 50, 200), drawn(70, 200, seed=1)
    whole = half.half_linear(wide[..., 20:100].contiguous(), weight[:, 20:100].contiguous())
    assert torch.equal(half.half_linear(wide[..., 20:100], weight[:, 20:100]), whole)
    turned = wide[..., 20:100].transpose(0, 1)
    there = half.half_linear(turned, weight[:, 20:100])
    assert there.shape == (50, 3, 70)
    assert torch.allclose(there, whole.transpose(0, 1), rtol=1e-2, atol=1e-2)


@needs_half
def test_a_gradient_may_be_a_view_of_one_number() -> None:
    x, weight = drawn(140, 70), drawn(66, 70, seed=1)
    dy = torch.ones(()).expand(140, 66)
    assert max(errors(x, weight, dy)) < TOLERANCE


@needs_half
def test_only_the_gradients_asked_for_are_made() -> None:
    x, weight = drawn(140, 70), drawn(66, 70, seed=1)
    dx, dw = products(half.half_linear, x, weight, torch.ones(140, 66))[1:]
    tracked = x.clone().requires_grad_()
    half.half_linear(tracked, weight).sum().backward()
    assert torch.equal(tracked.grad, dx)
    weight.requires_grad_()
    half.half_linear(x, weight).sum().backward()
    assert torch.equal(weight.grad, dw)
    assert not half.half_linear(x, weight.detach()).requires_grad


@needs_half
def test_changing_a_weight_before_the_backward_pass_is_an_error() -> None:
    x, weight = drawn(140, 70).requires_grad_(), drawn(66, 70, seed=1).requires_grad_()
    y = half.half_linear(x, weight)
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@needs_half
@pytest.mark.parametrize("rows", [40, 600, 1100])
def test_results_do_not_depend_on_the_number_of_threads(rows: int) -> None:
    x, weight, dy = drawn(rows, 96), drawn(130, 96, seed=1), drawn(rows, 130, seed=2)
    alone = products(half.half_linear, x, weight, dy)
    for threads in (2, 3, 7):
        torch.set_num_threads(threads)
        for one, many in zip(alone, products(half.half_linear, x, weight, dy), strict=True):
            assert torch.equal(one, many)


@needs_half
def test_the_native_kernels_use_it_where_the_precision_says_so() -> None:
    native, x, weight = Native(), drawn(200, 96), drawn(80, 96, seed=1)
    exact, rough = F.linear(x, weight), half.half_linear(x, weight)
    assert torch.equal(native.linear(x, weight), exact)
    with autocast(CPU, "fp16"):
        assert torch.equal(native.linear(x, weight), rough)
        assert torch.equal(Composed().linear(x, weight), exact)
        # Too few rows to pay, and what it does not take.
        assert torch.equal(native.linear(x[:5], weight), F.linear(x[:5], weight))
        assert native.linear(x.double(), weight.double()).dtype == torch.float64
        with autocast(CPU, "fp32"):
            assert torch.equal(native.linear(x, weight), exact)
        assert is_half()
    assert not is_half()


@needs_half
def test_a_network_learns_the_same_in_half_precision() -> None:
    config = HybridConfig(
        vocab_size=70, d_model=64, n_layers=2, head_dim=16, mamba_head_dim=16, d_state=16
    )
    tokens = torch.randint(0, 70, (4, 65), generator=torch.Generator().manual_seed(3))
    found = {}
    for kind in ("fp32", "fp16"):
        model = HybridLM(config, kernels="native", seed=1)
        with autocast(CPU, kind):
            logits = model(tokens[:, :-1])[0]
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found[kind] = (loss.item(), gradients)
    assert found["fp16"][0] != found["fp32"][0]
    assert found["fp16"][0] == pytest.approx(found["fp32"][0], rel=1e-3)
    apart = (found["fp16"][1] - found["fp32"][1]).norm() / found["fp32"][1].norm()
    assert apart < 1e-2


def test_precision_follows_the_machine_and_a_wish_that_it_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def machine(*flags: str, vendor: str = "GenuineIntel") -> None:
        monkeypatch.setattr(processor, "vendor", lambda: vendor)
        monkeypatch.setattr(processor, "flags", lambda: frozenset(flags))

    machine("avx512_fp16", "amx_bf16")
    assert choose_precision(CPU) == "bf16"
    machine("avx512_bf16", vendor="AuthenticAMD")
    assert choose_precision(CPU) == "bf16"
    machine("avx512_bf16")
    assert choose_precision(CPU) == "fp32"
    machine("avx512_fp16", "avx512_bf16")
    assert choose_precision(CPU) == "fp16"
    machine("avx512_fp16")
    assert choose_precision(CPU) == "fp16"
    assert choose_precision(CPU, has_half=False) == "fp32"
    assert choose_precision(torch.device("cuda")) == "bf16"
    assert compute_dtype(CPU) == torch.float32
    machine()
    assert choose_precision(CPU) == "fp32"
    for device, has_half in ((CPU, True), (torch.device("cuda"), True), (CPU, False)):
        with pytest.raises(KernelUnavailable, match="needs a CPU with AVX512-FP16"):
            choose_precision(device, "fp16", has_half=has_half)


def test_where_it_cannot_be_had_a_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_LM_ISA", "plain")
    reason = half.available()
    assert reason is not None
    assert "AVX512-FP16" in reason
    with pytest.raises(KernelUnavailable, match="AVX512-FP16"):
        half.library()


# ---- Muon's iteration


def orthogonalized_in_half(x: Tensor) -> Tensor:
    return orthogonalize(x, POLAR[:3], in_half=True)


@needs_half
@pytest.mark.parametrize(
    "shape", [(3, 256, 256), (2, 896, 256), (2, 192, 672), (4, 32, 192), (2, 13, 57), (1, 33, 1)]
)
def test_matrices_are_orthogonalised_as_in_float64(shape: tuple[int, int, int]) -> None:
    x = drawn(*shape)
    true = orthogonalize(x.double(), POLAR[:3])
    found = orthogonalized_in_half(x)
    assert found.dtype == torch.float32
    assert (found - true).norm() < 3e-2 * true.norm()


@needs_half
def test_orthogonalising_is_the_same_for_any_number_of_threads_and_any_scale() -> None:
    x = drawn(5, 40, 72)
    alone = orthogonalized_in_half(x)
    torch.set_num_threads(3)
    assert torch.equal(orthogonalized_in_half(x), alone)
    for scale in (2.0**-20, 2.0**80):
        assert torch.equal(orthogonalized_in_half(scale * x), alone)


@needs_half
def test_a_matrix_of_zeros_or_with_a_nan_is_its_own_affair() -> None:
    x = drawn(3, 24, 48)
    alone = orthogonalized_in_half(x)
    x[0], x[1, 3, 5] = 0, float("nan")
    found = orthogonalized_in_half(x)
    assert not found[0].any()
    assert found[1].isnan().any()
    assert torch.equal(found[2], alone[2])


@needs_half
def test_a_step_of_muon_in_half_precision_is_nearly_that_in_float32() -> None:
    steps = []
    for dtype in (torch.float16, torch.float32):
        weight = torch.nn.Parameter(torch.zeros(96, 64))
        weight.grad = drawn(96, 64, scale=1e-8)  # far below what float16 holds
        Muon([{"params": [weight], "blocks": [(64, 32)]}], lr=1.0, dtype=dtype).step()
        steps.append(weight.detach())
    assert (steps[0] - steps[1]).norm() < 2e-2 * steps[1].norm()
