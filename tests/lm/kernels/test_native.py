"""The native kernels equal the loops that the papers write, on every instruction set, by any number
of threads, gradients included; what they do not take goes to torch."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from twin.lm.errors import KernelUnavailable
from twin.lm.kernels.native import Native, build, ops
from twin.lm.kernels.reference import Reference

LENGTHS = [1, 15, 16, 17, 31, 33, 64, 203]
LEVELS = list(build.LEVELS)
Op = Callable[..., Any]

try:
    Native()
except KernelUnavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(
    params=[
        pytest.param(level, marks=[] if level == build.machine_level() else [pytest.mark.slow])
        for level in LEVELS
    ]
)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Native:
    """Built for each level that this processor has."""
    if request.param not in build.levels():
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setenv("TWIN_LM_ISA", request.param)
    return Native()


def draws(seed: int) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


def wkv6_inputs(batch: int, time: int, *, key: int = 32, value: int = 32, decay: float = 0.0,
                heads: int = 3) -> list[Tensor]:  # fmt: skip
    draw, shape = draws(time), (batch, time, heads, key)
    logw = -torch.exp(draw(*shape) + decay)
    v = draw(batch, time, heads, value)
    return [draw(*shape), draw(*shape), v, logw, draw(heads, key), draw(batch, heads, key, value)]


def rwkv_inputs(batch: int, time: int, *, size: int = 32, decay: float = 0.0, heads: int = 3,
                more: int = 7) -> list[Tensor]:  # fmt: skip
    draw, width = draws(time), heads * size
    return [
        draw(batch, time, 4 * width + more),
        draw(batch, time, width) + decay,
        draw(heads, size),
        draw(width),
        draw(width),
        draw(batch, heads, size, size),
    ]


def decay_inputs(batch: int, time: int, *, size: int = 32, decay: float = 0.0, heads: int = 3,
                 rank: int = 16) -> list[Tensor]:  # fmt: skip
    draw, width = draws(time), heads * size
    p, _, *rest = rwkv_inputs(batch, time, size=size, heads=heads, more=rank)
    return [p, draw(width, rank) / rank**0.5, draw(width) + decay, *rest]


def ssd_inputs(batch: int, time: int, *, size: int = 32, states: int = 32, decay: float = 0.0,
               heads: int = 3) -> list[Tensor]:  # fmt: skip
    draw = draws(time)
    return [draw(batch, time, heads, size), -torch.exp(draw(batch, time, heads) + decay),
            draw(batch, time, states), draw(batch, time, states),
            draw(batch, heads, size, states)]  # fmt: skip


def mamba_inputs(batch: int, time: int, *, size: int = 32, states: int = 32, width: int = 4,
                 decay: float = 0.0, heads: int = 3) -> list[Tensor]:  # fmt: skip
    draw, inner = draws(time), heads * size
    channels = inner + 2 * states
    return [draw(batch, time, inner + channels + heads), draw(channels, width), draw(channels),
            draw(heads), draw(heads) + decay, draw(heads), draw(inner),
            draw(batch, width - 1, channels), draw(batch, heads, size, states)]  # fmt: skip


def everything(op: Op, inputs: list[Tensor]) -> list[Tensor]:
    """Every output and the gradient of every input, for fixed cotangents of all outputs."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    made = op(*inputs)
    outputs = list(made) if isinstance(made, tuple) else [made]
    draw = draws(7)
    cotangents = [draw(*output.shape).to(output.dtype) for output in outputs]
    grads = torch.autograd.grad(outputs, inputs, cotangents)
    return [x.detach() for x in (*outputs, *grads)]


def worst(found: list[Tensor], true: list[Tensor]) -> float:
    """The largest relative distance, by L2 norm."""
    pairs = zip(found, true, strict=True)
    return max(
        float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30))
        for a, b in pairs
    )


OPS: dict[str, tuple[Callable[..., list[Tensor]], Callable[[Any], Op]]] = {
    "wkv6": (wkv6_inputs, lambda kernels: kernels.wkv6),
    "rwkv_mix": (
        rwkv_inputs, lambda kernels: lambda *x: kernels.rwkv_mix(*x, logw_min=-5.0)
    ),
    "rwkv_decay_mix": (
        decay_inputs, lambda kernels: lambda *x: kernels.rwkv_decay_mix(*x, logw_min=-5.0)
    ),
    "ssd": (ssd_inputs, lambda kernels: kernels.ssd),
    "mamba_mix": (mamba_inputs, lambda kernels: kernels.mamba_mix),
}  # fmt: skip


@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize("name", OPS)
def test_a_recurrence_is_the_loop_with_every_gradient(
    name: str, time: int, kernels: Native
) -> None:
    make, op = OPS[name]
    inputs = make(2, time)
    true = everything(op(Reference()), inputs)
    assert worst(everything(op(kernels), [x.float() for x in inputs]), true) < 1e-5


@pytest.mark.parametrize("decay", [-6.0, -3.0, 2.0, 4.0])
@pytest.mark.parametrize("name", OPS)
def test_weak_strong_and_saturated_decays_are_exact(name: str, decay: float) -> None:
    make, op = OPS[name]
    for batch in (1, 3):
        inputs = make(batch, 40, decay=decay)
        true = everything(op(Reference()), inputs)
        assert worst(everything(op(Native()), [x.float() for x in inputs]), true) < 1e-5


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("wkv6", {"key": 16, "value": 64}),
        ("wkv6", {"key": 64, "value": 16}),
        ("rwkv_mix", {"size": 16, "heads": 1, "more": 0}),
        ("rwkv_mix", {"size": 64, "heads": 2}),
        ("ssd", {"size": 16, "states": 64}),
        ("mamba_mix", {"size": 64, "states": 16, "heads": 1}),
        ("mamba_mix", {"size": 16, "states": 48, "width": 2, "heads": 17}),
        ("mamba_mix", {"width": 9}),
    ],
)
def test_all_sizes_in_steps_of_sixteen(name: str, sizes: dict[str, int], kernels: Native) -> None:
    make, op = OPS[name]
    for time in (5, 35):  # five tokens are fewer than a wide convolution reaches back
        inputs = make(1, time, **sizes)
        true = everything(op(Reference()), inputs)
        assert worst(everything(op(kernels), [x.float() for x in inputs]), true) < 1e-5


@pytest.mark.parametrize("name", OPS)
def test_bfloat16_activations_stay_within_a_hundredth(name: str, kernels: Native) -> None:
    make, op = OPS[name]
    inputs = make(2, 65)
    num_activations = {"wkv6": 4, "rwkv_mix": 2, "rwkv_decay_mix": 1, "ssd": 1, "mamba_mix": 1}[
        name
    ]
    rounded = [
        x.bfloat16() if place < num_activations else x.float() for place, x in enumerate(inputs)
    ]
    true = everything(op(Reference()), [x.double() for x in rounded])
    found = everything(op(kernels), rounded)
    grads = found[-len(inputs) :]
    assert [x.dtype for x in grads] == [x.dtype for x in rounded]
    assert worst(found, true) < 1e-2


@pytest.mark.parametrize("split", [1, 16, 32, 50])
@pytest.mark.parametrize("name", OPS)
def test_a_sequence_in_two_parts_is_the_whole(name: str, split: int) -> None:
    make, op = OPS[name]
    time = 64
    inputs = [x.float() for x in make(2, time)]
    num_states = 2 if name == "mamba_mix" else 1
    is_timed = [x.dim() > 2 and x.shape[1] == time for x in inputs]
    first = [x[:, :split] if timed else x for x, timed in zip(inputs, is_timed, strict=True)]
    second = [x[:, split:] if timed else x for x, timed in zip(inputs, is_timed, strict=True)]
    whole, *states = op(Native())(*inputs)
    head, *between = op(Native())(*first)
    tail, *last = op(Native())(*second[:-num_states], *between)
    assert worst([torch.cat([head, tail], dim=1), *last], [whole, *states]) < 1e-6


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("name", OPS)
def test_the_number_of_threads_changes_no_bit(name: str, batch: int) -> None:
    make, op = OPS[name]
    inputs = [x.float() for x in make(batch, 70)]
    alone = everything(op(Native()), inputs)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        together = everything(op(Native()), inputs)
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("name", OPS)
def test_nothing_to_learn_gives_the_same_without_keeping_anything(name: str) -> None:
    make, op = OPS[name]
    inputs = [x.float() for x in make(2, 37)]
    learning = op(Native())(*[x.clone().requires_grad_() for x in inputs])
    with torch.no_grad():
        for found, true in zip(op(Native())(*inputs), learning, strict=True):
            assert torch.equal(found, true)
            assert not found.requires_grad


@pytest.mark.parametrize("name", OPS)
def test_slices_of_columns_and_turned_inputs_give_the_same(name: str) -> None:
    make, op = OPS[name]
    inputs = [x.float() for x in make(2, 19)]
    true = everything(op(Native()), inputs)

    def scattered(*given: Tensor) -> Any:
        columns = [torch.cat([x, x], dim=-1)[..., : x.shape[-1]] for x in given]
        turned = [x.mT.contiguous().mT if x.dim() > 1 else x for x in given]
        assert all(
            torch.equal(a, b)
            for a, b in zip(op(Native())(*columns), op(Native())(*turned), strict=True)
        )
        return op(Native())(*columns)

    found = everything(scattered, inputs)
    assert all(torch.equal(a, b) for a, b in zip(found, true, strict=True))


@pytest.mark.parametrize("name", OPS)
def test_a_gradient_of_only_one_output_is_enough(name: str) -> None:
    make, op = OPS[name]
    inputs = make(2, 18)
    for place in range(3 if name == "mamba_mix" else 2):

        def sums(given: list[Tensor], kernels: Any, place: int = place) -> list[Tensor]:
            given = [x.clone().requires_grad_() for x in given]
            out = op(kernels)(*given)[place].sum()  # an expanded cotangent
            grads = torch.autograd.grad(out, given, allow_unused=True)
            pairs = zip(given, grads, strict=True)
            return [torch.zeros_like(x) if g is None else g for x, g in pairs]

        found = sums([x.float() for x in inputs], Native())
        true = sums(inputs, Reference())
        assert all(
            float((a - b).norm()) <= 1e-5 * max(float(b.norm()), 1e-2)
            for a, b in zip(found, true, strict=True)
        )


@pytest.mark.parametrize("name", OPS)
def test_a_number_that_is_none_stays_visible(name: str, kernels: Native) -> None:
    make, op = OPS[name]
    inputs = [x.float() for x in make(1, 40)]
    inputs[0][0, 36].fill_(float("nan"))
    found = everything(op(kernels), inputs)
    assert bool(found[0][0, 36].isnan().all())
    assert not bool(found[0][0, :32].isnan().any())  # earlier segments do not hear of it
    assert any(bool(x.isnan().any()) for x in found[-len(inputs) :])


@pytest.mark.parametrize("name", OPS)
def test_no_sequences_and_no_tokens_are_fine(name: str) -> None:
    make, op = OPS[name]
    for batch, time in ((0, 5), (2, 0)):
        inputs = [x.float() for x in make(batch, time)]
        out, *states = everything(op(Native()), inputs)[: 3 if name == "mamba_mix" else 2]
        assert out.shape[:2] == (batch, time)
        given = inputs[-len(states) :]
        assert all(torch.equal(a, b) for a, b in zip(states, given, strict=True))


def test_decays_far_below_float32_forget_everything() -> None:
    inputs = wkv6_inputs(1, 40)
    inputs[3].fill_(-1e4)
    true = everything(Reference().wkv6, inputs)
    found = everything(Native().wkv6, [x.float() for x in inputs])
    assert all(bool(x.isfinite().all()) for x in found)
    assert worst(found[:2], true[:2]) < 1e-5


def test_a_decay_that_is_clamped_gets_no_gradient() -> None:
    inputs = [x.float() for x in rwkv_inputs(1, 10)]
    inputs[1].fill_(3.0)  # -exp(3) is below -5
    found = everything(OPS["rwkv_mix"][1](Native()), inputs)
    assert float(found[2 + 1].abs().max()) == 0.0


def test_five_thousand_tokens_keep_a_state_every_thirty_two() -> None:
    inputs = [x.float() for x in wkv6_inputs(1, 5000, heads=1, key=16, value=16)]
    true = everything(Reference().wkv6, [x[:, :300] if x.dim() == 4 and x.shape[1] == 5000 else x
                                         for x in (y.double() for y in inputs)])  # fmt: skip
    assert worst([Native().wkv6(*inputs)[0][:, :300]], true[:1]) < 1e-5
    *_, saved = ops.Wkv6.run(*inputs, keep=True)
    assert saved is not None
    assert saved.numel() == 157 * 16 * 16
    assert all(bool(x.isfinite().all()) for x in everything(Native().wkv6, inputs))


# Without a recurrence -----------------------------------------------------------------------------


def plain_inputs(dtype: torch.dtype) -> dict[str, tuple[Callable[[Any], Op], list[Tensor]]]:
    draw = draws(3)
    x, y, z = (draw(2, 67, 48).to(dtype) for _ in range(3))
    weight, gate, bias = draw(48).float(), draw(96).float(), draw(1).float()
    return {
        "add_norm": (lambda k: k.add_norm, [x, y, weight]),
        "norm": (lambda k: lambda x, w: k.add_norm(x, None, w)[1], [x, weight]),
        "gated_sum": (lambda k: k.gated_sum, [x, z, gate, bias]),
        "normed_gated_sum": (lambda k: partial(k.gated_sum, normed=True), [x, 0.2 * z, gate, bias]),
        "relu2": (lambda k: k.relu2, [draw(3, 41).to(dtype)]),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["add_norm", "norm", "gated_sum", "normed_gated_sum", "relu2"])
def test_what_surrounds_them_is_plain_torch(name: str, dtype: torch.dtype, kernels: Native) -> None:
    op, inputs = plain_inputs(dtype)[name]
    true = everything(op(Reference()), [x.double() for x in inputs])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert worst(everything(op(kernels), inputs), true) < tolerance


def test_a_residual_in_float32_takes_a_branch_in_bfloat16() -> None:
    draw = draws(4)
    x, y, weight = draw(2, 9, 32).float(), draw(2, 9, 32).bfloat16(), draw(32).float()
    for drop in (0.0, 0.5):
        op = partial(Native().add_norm, dropout=drop, seed=1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = everything(op, [x, y, weight])
        assert [z.dtype for z in found] == [
            torch.float32, torch.bfloat16, torch.float32, torch.bfloat16, torch.float32
        ]  # fmt: skip


def test_dropout_keeps_its_share_scaled_and_follows_the_seed() -> None:
    x, y, weight = torch.zeros(40, 50, 64), torch.ones(40, 50, 64), torch.ones(64)
    op = Native().add_norm
    kept = {seed: op(x, y, weight, dropout=0.2, seed=seed)[0] for seed in (1, 2)}
    assert set(kept[1].unique().tolist()) == {0.0, 1.25}
    assert float((kept[1] > 0).float().mean()) == pytest.approx(0.8, abs=0.005)
    assert float((kept[1] > 0).float().mean(dim=(0, 1)).std()) < 0.02
    assert torch.equal(kept[1], op(x, y, weight, dropout=0.2, seed=1)[0])
    assert float((kept[1] == kept[2]).float().mean()) == pytest.approx(0.68, abs=0.01)


def test_dropout_backward_drops_what_forward_dropped() -> None:
    draw = draws(5)
    x, y, weight = (z.float() for z in (draw(2, 30, 32), draw(2, 30, 32), draw(32)))
    op = partial(Native().add_norm, dropout=0.3, seed=9)
    mask = op(torch.zeros_like(x), torch.ones_like(y), weight)[0]
    found = everything(op, [x, y, weight])
    true = everything(
        lambda x, y, w: Reference().add_norm(x, y * mask.double(), w),
        [x.double(), y.double(), weight.double()],
    )
    assert worst(found, true) < 1e-5


# What they do not take ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPS)
def test_float64_goes_to_torch_and_is_exact(name: str) -> None:
    make, op = OPS[name]
    inputs = make(1, 20)
    assert worst(everything(op(Native()), inputs), everything(op(Reference()), inputs)) < 1e-10


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("wkv6", {"key": 8, "value": 24}), ("rwkv_mix", {"size": 20}), ("ssd", {"states": 8}),
     ("mamba_mix", {"size": 10})],
)  # fmt: skip
def test_odd_sizes_go_to_torch(name: str, sizes: dict[str, int]) -> None:
    make, op = OPS[name]
    inputs = make(2, 20, **sizes)
    found = everything(op(Native()), [x.float() for x in inputs])
    assert worst(found, everything(op(Reference()), inputs)) < 1e-5


def test_the_library_shares_the_pool_of_threads_that_torch_has() -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists() or ops.torch_openmp() is None:
        pytest.skip("no list of loaded libraries, or torch has no GNU OpenMP")
    loaded = {line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line}
    assert len(loaded) == 1
