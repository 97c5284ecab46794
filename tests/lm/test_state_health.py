"""Are the recurrent states alive?"""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from twin.lm.config import HybridConfig
from twin.lm.model import HybridLM
from twin.lm.state import State
from twin.lm.state_health import StateReading, state_readings

TINY = HybridConfig(
    vocab_size=20, d_model=32, n_layers=1, head_dim=16, mamba_head_dim=16, d_state=16, decay_rank=8
)


class Scripted(HybridLM):
    """A network whose WKV states are given; the SSM's are noise."""

    script: list[Tensor]

    def hidden(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        wkv = self.script.pop(0).expand(tokens_BT.shape[0], 2, 16, 16)
        batch = tokens_BT.shape[0]
        return torch.zeros(1), (wkv, torch.zeros(batch, 3, 64), torch.randn(batch, 2, 16, 16))


def looked_at(*script: Tensor) -> StateReading:
    model = Scripted(TINY, kernels="chunked", seed=0)
    model.script = list(script)
    return state_readings(model, torch.zeros(2, 64 * len(script), dtype=torch.long))[0]


def test_a_frozen_state_has_cosine_one_and_a_turning_one_has_not() -> None:
    torch.manual_seed(0)
    still = torch.randn(16, 16)
    assert looked_at(still, still, 2 * still).cosine == pytest.approx(1.0)
    assert abs(looked_at(*(torch.randn(16, 16) for _ in range(4))).cosine) < 0.2
    assert looked_at(still, still, -still).cosine == pytest.approx(-1.0)


def test_a_state_that_stays_zero_is_frozen_and_holds_nothing_in_particular() -> None:
    found = looked_at(*[torch.zeros(16, 16)] * 3)
    assert found.cosine == 1.0
    assert found.top5_share == pytest.approx(5 / 16)
    assert found.largest == 0.0


def test_rank_and_share_tell_one_direction_from_many() -> None:
    one = looked_at(*[torch.outer(torch.arange(16.0), torch.ones(16))] * 3)
    assert one.effective_rank == pytest.approx(1.0, abs=1e-4)
    assert one.top5_share == pytest.approx(1.0)
    assert one.entropy == pytest.approx(0.0, abs=1e-4)
    all_alike = looked_at(*[torch.eye(16)] * 3)
    assert all_alike.effective_rank == pytest.approx(16.0)
    assert all_alike.top5_share == pytest.approx(5 / 16)
    assert all_alike.entropy == pytest.approx(1.0)


def test_a_state_with_nan_says_so_and_gives_no_other_figure() -> None:
    found = looked_at(torch.eye(16), torch.eye(16) * math.nan, torch.eye(16))
    assert found.num_not_finite > 0
    assert math.isnan(found.cosine)
    assert math.isinf(found.largest)


def test_every_pathway_of_every_layer_is_read_and_pure_networks_have_one() -> None:
    tokens = torch.randint(20, (2, 256), generator=torch.Generator().manual_seed(0))
    both = HybridLM(replace(TINY, n_layers=2, trainable_h0=True), kernels="chunked", seed=0)
    assert [(one.layer, one.pathway) for one in state_readings(both, tokens)] == [
        (0, "rwkv"), (0, "mamba"), (1, "rwkv"), (1, "mamba"),
    ]  # fmt: skip
    pure = HybridLM(replace(TINY, pathways="mamba"), kernels="chunked", seed=0)
    assert [one.pathway for one in state_readings(pure, tokens)] == ["mamba"]


def test_a_text_too_short_for_two_states_has_no_cosine() -> None:
    model = HybridLM(TINY, kernels="chunked", seed=0)
    assert math.isnan(state_readings(model, torch.zeros(1, 64, dtype=torch.long))[0].cosine)
    assert state_readings(model, torch.zeros(1, 63, dtype=torch.long)) == ()
