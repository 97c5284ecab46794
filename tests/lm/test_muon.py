"""Muon's update has the singular vectors of the momentum and singular values near one."""

import pytest
import torch

from twin.lm.muon import JORDAN, POLAR, Muon, orthogonalize


@pytest.mark.parametrize(("rows", "columns"), [(24, 24), (16, 80), (80, 16), (17, 33), (1, 9)])
@pytest.mark.parametrize("coefficients", [JORDAN, POLAR], ids=["jordan", "polar"])
def test_singular_values_end_near_one(rows: int, columns: int, coefficients: object) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, rows, columns)
    values = torch.linalg.svdvals(orthogonalize(x, coefficients))
    assert values.max() < 1.3
    assert values[:, : max(1, values.shape[1] - 1)].min() > 0.4


@pytest.mark.parametrize("shape", [(2, 16, 80), (2, 80, 16)])
def test_the_gram_form_agrees_with_the_plain_iteration(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    plain = orthogonalize(x.double()).float()  # only float32 takes the Gram form
    assert torch.linalg.vector_norm(orthogonalize(x) - plain) < 1e-4 * torch.linalg.norm(plain)


def test_singular_vectors_are_kept_and_zeros_stay_zeros() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 8, 40)
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    assert ((orthogonalize(x) * (u @ vh)).sum() / 8) > 0.8
    assert not orthogonalize(torch.zeros(2, 8, 40)).any()


def test_square_steps_are_those_of_torch() -> None:
    """Same momentum, same Nesterov step, same scale; torch iterates in bfloat16."""
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(32, 96).T.contiguous()) for _ in range(2))
    own = Muon([{"params": [ours]}], lr=0.02, weight_decay=0.1)
    other = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95)
    for _ in range(3):
        ours.grad = torch.randn(96, 32)
        theirs.grad = ours.grad.clone()
        own.step()
        other.step()
    moved = torch.linalg.vector_norm(theirs - 1)
    assert torch.linalg.vector_norm(ours - theirs) < 0.03 * moved


def test_blocks_are_orthogonalised_alone() -> None:
    """A block with a tiny gradient beside a large one takes a step of full size."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(32, 16))
    weight.grad = torch.cat([torch.randn(16, 16), 1e-4 * torch.randn(16, 16)])
    Muon([{"params": [weight], "blocks": [(16, 16)]}], lr=1.0).step()
    assert 0.5 < torch.linalg.norm(weight[:16]) / torch.linalg.norm(weight[16:]) < 2


def test_blocks_that_do_not_fill_a_matrix_are_refused() -> None:
    with pytest.raises(ValueError, match="fill their rows"):
        Muon([{"params": [torch.nn.Parameter(torch.zeros(4, 4))], "blocks": [(3,)]}], lr=1.0)
    with pytest.raises(ValueError, match="matrices"):
        Muon([{"params": [torch.nn.Parameter(torch.zeros(4))]}], lr=1.0)


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 4))
    Muon([{"params": [weight]}], lr=1.0, weight_decay=0.5).step()
    assert (weight == 1).all()
