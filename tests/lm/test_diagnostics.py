"""Does each part matter, and is the signal healthy?"""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from twin.lm.config import HybridConfig
from twin.lm.diagnostics import (
    ablation,
    context_gain,
    contributions,
    gradients,
    layer_readings,
    loss_by_position,
    mean_loss,
)
from twin.lm.model import Block, HybridLM
from twin.lm.state_health import state_readings

TINY = HybridConfig(
    vocab_size=20, d_model=32, n_layers=2, head_dim=16, mamba_head_dim=16, d_state=16, decay_rank=8
)


def tiny(**options: object) -> HybridLM:
    return HybridLM(replace(TINY, **options), kernels="chunked", seed=0)


def tokens(streams: int = 2, length: int = 129, seed: int = 0) -> Tensor:
    return torch.randint(20, (streams, length), generator=torch.Generator().manual_seed(seed))


def block(model: HybridLM, layer: int = 0) -> Block:
    found = model.blocks[layer]
    assert isinstance(found, Block)
    return found


def test_the_loss_is_cross_entropy_in_nats_per_token() -> None:
    model, seen = tiny(), tokens()
    log_p = model(seen[:, :-1])[0].detach().log_softmax(-1)
    expected = -log_p.gather(-1, seen[:, 1:, None]).mean()
    assert mean_loss(model, seen) == pytest.approx(float(expected), abs=1e-6)


def test_a_silent_pathway_costs_nothing_and_a_used_one_does() -> None:
    model = tiny()
    nn.init.normal_(model.embed.weight, std=0.1)
    for layer in range(2):
        nn.init.zeros_(block(model, layer).rwkv.out_proj.weight)
        nn.init.normal_(block(model, layer).mamba.out_proj.weight, std=1.0)
    found = ablation(model, tokens())
    assert found.without["rwkv"] == found.loss
    assert abs(found.without["mamba"] - found.loss) > 0.001


@pytest.mark.parametrize("part", ["attention", "ngrams", "induction"])
def test_what_a_silent_part_is_worth_is_what_its_zeros_cost(part: str) -> None:
    model = tiny(
        attention_every=2, attention_heads=2, ngram_max=3, ngram_rows=64, ngram_dim=8,
        induction_max=2, vocab_size=4,
    )  # fmt: skip
    seen = tokens() % 4  # short sequences come back
    nn.init.normal_(model.embed.weight, std=0.1)
    found = ablation(model, seen)
    assert list(found.without) == ["rwkv", "mamba", "attention", "ngrams", "induction"]
    with torch.no_grad():
        if part == "attention":
            for own in model.blocks:
                if own.attention is not None:
                    own.attention.out_proj.weight.zero_()
        else:
            places = {"induction": (0, 2), "ngrams": (1, 3)}[part]  # 1: i; 2: n, i; 3: n
            model.context.projection.weight.view(32, 4, 8)[:, places] = 0
    assert mean_loss(model, seen) == pytest.approx(found.without[part], abs=1e-6)
    assert abs(found.without[part] - found.loss) > 1e-5


def test_a_network_of_one_pathway_has_nothing_to_ablate() -> None:
    model = tiny(pathways="rwkv")
    found = ablation(model, tokens())
    assert found.without == {}
    assert gradients(model, tokens()).overall is None
    assert all(one.rwkv_norm is None for one in layer_readings(model, tokens()))


@pytest.mark.parametrize("fusion", ["GF", "HGF", "WS", "RF", "HY", "CP"])
def test_what_both_pathways_add_sums_to_what_the_block_fuses(fusion: str) -> None:
    model = tiny(fusion=fusion)
    own = block(model)
    own.tap = {}
    fused: list[Tensor] = []
    own.fuse.register_forward_hook(lambda module, inputs, out: fused.append(out[0]))
    with torch.no_grad():
        model(tokens())
        from_rwkv, from_mamba = contributions(own, own.tap)
    torch.testing.assert_close(from_rwkv + from_mamba, fused[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fusion", ["GF", "MINGRU"])
def test_a_layer_tells_its_gate_where_it_has_one_and_its_variance(fusion: str) -> None:
    first, second = layer_readings(tiny(fusion=fusion, gate_init=0.3), tokens())
    assert first.gate_mean == (pytest.approx(0.3) if fusion == "GF" else None)
    assert first.gate_saturated == (0.0 if fusion == "GF" else None)
    assert first.amplification > 1.0
    assert second.variance_in == pytest.approx(first.variance_out, rel=1e-5)
    assert first.rwkv_share is not None
    assert 0 < first.rwkv_share < 1


def test_a_gate_at_its_end_is_saturated() -> None:
    model = tiny()
    nn.init.constant_(block(model).fuse.bias, 9.0)
    first, second = layer_readings(model, tokens())
    assert (first.gate_saturated, second.gate_saturated) == (1.0, 0.0)


def test_the_ratio_is_of_the_norms_over_all_parameters_of_a_pathway() -> None:
    model, seen = tiny(), tokens()
    found = gradients(model, seen)
    logits, _ = model(seen[:, :-1])
    nn.functional.cross_entropy(logits.flatten(0, 1), seen[:, 1:].flatten()).backward()
    for one, own in zip(found.layers, model.blocks, strict=True):
        rwkv, mamba = (
            math.sqrt(sum(float(p.grad.square().sum()) for p in part.parameters()))
            for part in (own.rwkv, own.mamba)
        )
        assert one.rwkv == pytest.approx(rwkv, rel=1e-5)
        assert one.ratio == pytest.approx(rwkv / mamba, rel=1e-5)
        assert one.coupling is not None
        assert -1 <= one.coupling <= 1
    assert found.overall is not None
    assert found.overall.rwkv == pytest.approx(math.hypot(*(one.rwkv for one in found.layers)))
    every = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
    assert found.norm == pytest.approx(every, rel=1e-5)


def test_two_branches_that_ask_the_same_are_coupled() -> None:
    """Both branches replaced by the same map: what comes back through each is the same."""

    class Same(nn.Module):
        def __init__(self, count: int) -> None:
            super().__init__()
            self.map = nn.Linear(32, 32, bias=False)
            nn.init.eye_(self.map.weight)
            self.count = count

        def forward(self, h: Tensor, *rest: object) -> tuple[object, ...]:
            return (self.map(h), *rest[: self.count])

    model = tiny(gate_init=0.5, n_layers=1)
    own = block(model)
    own.rwkv, own.mamba = Same(2), Same(2)
    found = gradients(model, tokens())
    assert found.layers[0].coupling == pytest.approx(1.0)
    assert found.layers[0].ratio == pytest.approx(1.0)


def test_a_pathway_without_gradient_has_ratio_zero() -> None:
    model = tiny()
    for layer in range(2):
        nn.init.constant_(block(model, layer).fuse.bias, -1000.0)
    overall = gradients(model, tokens()).overall
    assert overall is not None
    assert overall.ratio == 0.0


def test_looking_changes_nothing() -> None:
    model = tiny(dropout=0.2, ngram_max=2, ngram_rows=64).train()
    block(model).ablate = "mamba"
    model.embed.weight.grad = torch.ones_like(model.embed.weight)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for look in (ablation, layer_readings, gradients, loss_by_position, state_readings):
        look(model, tokens())
    assert model.training
    assert [one.ablate for one in model.blocks] == ["mamba", None]
    assert model.context.ablate is None
    assert all(one.tap is None for one in model.blocks)
    assert torch.equal(model.embed.weight.grad, torch.ones_like(model.embed.weight))
    assert all(other.grad is None for other in model.blocks.parameters())
    assert not block(model).rwkv._forward_pre_hooks
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


def test_losses_by_position_double_their_bins_and_do_not_depend_on_the_window() -> None:
    model, seen = tiny(), tokens(length=21)
    found = loss_by_position(model, seen)
    assert [place for place, _ in found] == [1.0, 2.0, 3.5, 6.5, 12.5, 18.5]
    cut = loss_by_position(model, seen, window=7)
    assert [loss for _, loss in cut] == pytest.approx([loss for _, loss in found], abs=1e-5)
    weights = (1, 1, 2, 4, 8, 4)
    mean = sum(n * loss for n, (_, loss) in zip(weights, found, strict=True)) / 20
    assert mean == pytest.approx(mean_loss(model, seen), abs=1e-5)


def test_context_is_compared_on_the_same_targets() -> None:
    model = tiny()
    found = context_gain(model, tokens(length=100), contexts=(8, 32, 500), num_targets=16)
    assert [context for context, _ in found] == [8, 32]
    seen = tokens(length=100)[:, -49:]
    log_p = model(seen[:, :-1])[0].detach().log_softmax(-1)[:, -16:]
    expected = -log_p.gather(-1, seen[:, -16:, None]).mean()
    assert found[1][1] == pytest.approx(float(expected), abs=1e-3)  # products may be fp16


def test_nan_weights_give_nan_and_no_exception() -> None:
    model = tiny()
    block(model).ffn.up.weight.data[0, 0] = math.nan
    assert math.isnan(mean_loss(model, tokens()))
    assert math.isnan(gradients(model, tokens()).norm)
    assert math.isnan(layer_readings(model, tokens())[0].amplification)
