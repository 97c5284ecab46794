"""The chunked recurrences equal the loops that the papers write, gradients included."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from twin.lm.kernels import chunked, reference

Recurrence = Callable[..., tuple[Tensor, Tensor]]


def random_wkv6(time: int, *, decay: float, dtype: torch.dtype, batch: int = 2) -> list[Tensor]:
    """r, k, v, log w, u and a starting state; `decay` shifts the raw decays: -3 weak, 2 strong."""
    generator = torch.Generator().manual_seed(time)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    shape = (batch, time, 3, 16)
    logw = torch.clamp_min(-torch.exp(draw(*shape) + decay), -5.0)
    values = [draw(*shape), draw(*shape), draw(*shape), logw, draw(3, 16), draw(batch, 3, 16, 16)]
    return [value.to(dtype).requires_grad_() for value in values]


def random_ssd(time: int, *, decay: float, dtype: torch.dtype, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(time)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    loga = -torch.exp(draw(batch, time, 3) + decay)
    values = [draw(batch, time, 3, 16), loga, draw(batch, time, 8), draw(batch, time, 8),
              draw(batch, 3, 16, 8)]  # fmt: skip
    return [value.to(dtype).requires_grad_() for value in values]


def everything(
    recurrence: Recurrence, inputs: list[Tensor], *, autocast: bool = False
) -> list[Tensor]:
    """Output, final state and the gradient of every input, for fixed cotangents of both."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        outputs = recurrence(*inputs)
    generator = torch.Generator().manual_seed(7)
    cotangents = [
        torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
        for output in outputs
    ]
    return [*outputs, *torch.autograd.grad(outputs, inputs, cotangents)]


def worst(found: list[Tensor], true: list[Tensor]) -> float:
    """The largest relative distance, by L2 norm."""
    return max(
        float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30))
        for a, b in zip((x.detach() for x in found), (x.detach() for x in true), strict=True)
    )


LENGTHS = [1, 15, 16, 17, 31, 33, 64, 203]
TOLERANCES = [(torch.float64, 1e-10), (torch.float32, 1e-5)]


@pytest.mark.parametrize("logw_min", [-5.0, None], ids=["bounded", "any decay"])
@pytest.mark.parametrize("decay", [-3.0, 0.0, 2.0])
@pytest.mark.parametrize("time", LENGTHS)
def test_wkv6_in_chunks_is_the_loop(time: int, decay: float, logw_min: float | None) -> None:
    true = everything(reference.wkv6, random_wkv6(time, decay=decay, dtype=torch.float64))
    for dtype, tolerance in TOLERANCES:
        inputs = random_wkv6(time, decay=decay, dtype=dtype)
        found = everything(lambda *x: chunked.wkv6(*x, logw_min=logw_min), inputs)
        assert worst(found, true) < tolerance


@pytest.mark.parametrize("decay", [-3.0, 0.0, 2.0])
@pytest.mark.parametrize("time", LENGTHS)
def test_ssd_in_chunks_is_the_loop(time: int, decay: float) -> None:
    true = everything(reference.ssd, random_ssd(time, decay=decay, dtype=torch.float64))
    for dtype, tolerance in TOLERANCES:
        found = everything(chunked.ssd, random_ssd(time, decay=decay, dtype=dtype))
        assert worst(found, true) < tolerance


def test_decays_far_below_float32_give_no_overflow() -> None:
    inputs = random_wkv6(40, decay=0.0, dtype=torch.float32)
    with torch.no_grad():
        inputs[3].fill_(-1e4)  # each token forgets everything before it
    found = everything(chunked.wkv6, inputs)
    assert all(bool(tensor.isfinite().all()) for tensor in found)
    assert worst(found[:2], everything(reference.wkv6, inputs)[:2]) < 1e-5


@pytest.mark.parametrize("split", [1, 16, 50, 63])
def test_a_sequence_in_two_parts_is_the_whole(split: int) -> None:
    for recurrence, inputs in (
        (chunked.wkv6, random_wkv6(64, decay=0.0, dtype=torch.float64)),
        (chunked.ssd, random_ssd(64, decay=0.0, dtype=torch.float64)),
    ):
        over_time = [x.dim() > 2 and x.shape[1] == 64 for x in inputs]
        first = [x[:, :split] if is_timed else x for x, is_timed in zip(inputs, over_time)]  # noqa: B905
        second = [x[:, split:] if is_timed else x for x, is_timed in zip(inputs, over_time)]  # noqa: B905
        whole, final = recurrence(*inputs)
        head, state = recurrence(*first)
        tail, last = recurrence(*second[:-1], state)
        assert worst([torch.cat([head, tail], dim=1), last], [whole, final]) < 1e-12


def test_bfloat16_products_stay_within_a_hundredth() -> None:
    true = everything(reference.ssd, random_ssd(203, decay=0.0, dtype=torch.float64))
    inputs = random_ssd(203, decay=0.0, dtype=torch.float32)
    found = everything(chunked.ssd, inputs, autocast=True)
    assert worst(found, true) < 1e-2


def test_decays_do_not_lose_their_gradients_under_autocast() -> None:
    true = everything(reference.wkv6, random_wkv6(203, decay=2.0, dtype=torch.float64))
    inputs = random_wkv6(203, decay=2.0, dtype=torch.float32)
    found = everything(lambda *x: chunked.Chunked().wkv6(*x, logw_min=-5.0), inputs, autocast=True)
    assert worst(found, true) < 1e-5


def test_no_tokens_leave_the_state_as_it_was() -> None:
    inputs = random_wkv6(0, decay=0.0, dtype=torch.float32)
    output, state = chunked.wkv6(*inputs)
    assert output.shape == (2, 0, 3, 16)
    assert torch.equal(state, inputs[-1])
