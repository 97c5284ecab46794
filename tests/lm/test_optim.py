"""Each parameter is learnt by the rule that suits it; norms, clipping and averages are exact."""

import copy

import pytest
import torch

from twin.lm.config import HybridConfig
from twin.lm.model import HybridLM
from twin.lm.muon import Muon
from twin.lm.optim import (
    Average,
    Gradients,
    Optimizers,
    Rates,
    is_hidden_matrix,
    pathway_of,
    row_blocks,
)

CONFIG = HybridConfig(
    vocab_size=17, d_model=32, n_layers=2, head_dim=16, mamba_head_dim=16, d_state=8, decay_rank=16
)


def model(**options: object) -> HybridLM:
    shape = HybridConfig.from_dict(CONFIG.to_dict() | options)
    return HybridLM(shape, kernels="chunked", seed=0)


def with_gradient(net: HybridLM, seed: int = 0) -> HybridLM:
    torch.manual_seed(seed)
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    return net


def make(net: HybridLM, **rates: object) -> Optimizers:
    return Optimizers(net, Rates(**rates), newton_dtype=torch.float32)  # type: ignore[arg-type]


def test_muon_takes_hidden_matrices_and_nothing_else() -> None:
    net = model()
    taken = {n for n, p in net.named_parameters() if is_hidden_matrix(n, p)}
    assert {n.removeprefix("blocks.0.") for n in taken if ".0." in n} == {
        "rwkv.in_proj.weight", "rwkv.decay_up.weight", "rwkv.out_proj.weight",
        "mamba.in_proj.weight", "mamba.out_proj.weight", "ffn.up.weight", "ffn.down.weight",
    }  # fmt: skip
    muon, adamw = make(net).all
    assert isinstance(muon, Muon)
    counted = sum(len(g["params"]) for one in (muon, adamw) for g in one.param_groups)
    assert counted == len(list(net.parameters()))
    assert len(make(net, optimizer="adamw").all) == 1


@pytest.mark.parametrize("blocks", ["whole", "parts", "heads"])
@pytest.mark.parametrize("fusion", ["GF", "CP", "HGF"])
def test_blocks_fill_every_matrix(blocks: str, fusion: str) -> None:
    net = model(fusion=fusion)
    for name, parameter in net.named_parameters():
        if is_hidden_matrix(name, parameter):
            rows = row_blocks(name, parameter.shape[0], net.config, blocks)  # type: ignore[arg-type]
            assert sum(rows) == parameter.shape[0]
    rows = row_blocks("blocks.0.rwkv.in_proj.weight", 4 * 32 + 16, CONFIG, "parts")
    assert rows == [32, 32, 32, 32, 16]
    rows = row_blocks("blocks.0.mamba.in_proj.weight", 2 * 32 + 2 * 8 + 2, CONFIG, "heads")
    assert rows == [16, 16, 16, 16, 8, 8, 2]
    rows = row_blocks("blocks.0.attention.in_proj.weight", 3 * 32, CONFIG, "heads")
    assert rows == [8] * 12


def test_weights_decay_in_matrices_only() -> None:
    for optimizer in ("muon", "adamw"):
        net = model()
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        before = copy.deepcopy(net.state_dict())
        make(net, optimizer=optimizer, weight_decay=0.5, lr=0.1, matrix_lr=0.1).step(1.0)
        for name, parameter in net.named_parameters():
            moved = not torch.equal(parameter, before[name])
            assert moved == is_hidden_matrix(name, parameter), name


def test_a_pathway_has_its_own_learning_rate() -> None:
    moved = {}
    for scale in (1.0, 0.5):
        net = with_gradient(model())
        before = copy.deepcopy(net.state_dict())
        make(net, mamba_lr=scale, weight_decay=0.0).step(1.0)
        moved[scale] = {n: (p - before[n]).norm().item() for n, p in net.named_parameters()}
    for name in moved[1.0]:
        wanted = 0.5 if pathway_of(name) == "mamba" else 1.0
        assert moved[0.5][name] / moved[1.0][name] == pytest.approx(wanted, rel=1e-3), name


def test_the_schedule_multiplies_every_learning_rate() -> None:
    optimizers = make(model())
    optimizers.step(0.25)
    rates = {group["lr"] for one in optimizers.all for group in one.param_groups}
    assert rates == {0.25 * 0.02, 0.25 * 3e-3}


def test_a_restored_optimizer_goes_on_exactly() -> None:
    net = model()
    optimizers = make(net)
    for seed in range(3):
        with_gradient(net, seed)
        optimizers.step(1.0)
    other = copy.deepcopy(net)
    continued = make(other)
    continued.restore({name: tensor.clone() for name, tensor in optimizers.tensors()})
    for one, two in ((net, optimizers), (other, continued)):
        with_gradient(one, 7)
        two.step(0.5)
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_norms_are_measured_by_pathway_and_clipped_together() -> None:
    net = with_gradient(model())
    parts = {"rwkv": 0.0, "mamba": 0.0, "other": 0.0}
    for name, parameter in net.named_parameters():
        parts[pathway_of(name)] += float(parameter.grad.double().square().sum())
    norms = Gradients(net).measure_and_clip(1.0)
    assert norms.total == pytest.approx(sum(parts.values()) ** 0.5, rel=1e-5)
    assert norms.ratio == pytest.approx((parts["rwkv"] / parts["mamba"]) ** 0.5, rel=1e-5)
    assert Gradients(net).measure_and_clip(0.0).total == pytest.approx(1.0, rel=1e-4)
    assert Gradients(net).measure_and_clip(9.0).total == pytest.approx(1.0, rel=1e-4)


def test_a_gradient_that_is_no_number_is_not_hidden() -> None:
    net = with_gradient(model())
    net.norm.weight.grad[0] = float("nan")
    assert not Gradients(net).measure_and_clip(1.0).total < float("inf")
    assert Gradients(model(pathways="mamba")).measure_and_clip(1.0).ratio is None


def test_the_average_spans_a_share_of_the_run() -> None:
    net = torch.nn.Linear(1, 1, bias=False)
    average = Average(net, width=0.1)
    for step in range(1, 1001):
        torch.nn.init.constant_(net.weight, float(step))
        average.update(step)
    # The mean age of a power-function average of width w is w / (1 + w) of the run.
    assert float(average.weights[0]) == pytest.approx(1000 * (1 - 0.1 / 1.1), rel=0.01)
    average.swap()
    assert float(net.weight.detach()) < 950
    average.swap()
    assert float(net.weight.detach()) == 1000
