"""A run on the side trains as a real one does."""

from typing import Any

import numpy as np
import pytest
import torch

from twin.lm.config import HybridConfig
from twin.lm.model import HybridLM
from twin.lm.probe import train_briefly

TOKENS = np.random.default_rng(0).integers(0, 11, 20_000).astype(np.uint16)
CONFIG = HybridConfig(
    vocab_size=11, d_model=16, n_layers=1, head_dim=8, mamba_head_dim=8, d_state=8, decay_rank=4
)


class Watched(HybridLM):
    """Notes how many rows of each batch start with a state."""

    def forward(self, tokens_BT: torch.Tensor, state: Any = None) -> Any:
        rows = 0 if state is None else int(state[0].flatten(1).abs().sum(1).count_nonzero())
        self.carried = [*getattr(self, "carried", []), rows]
        return super().forward(tokens_BT, state)


def test_streams_hand_their_state_on_while_others_begin_anew() -> None:
    model = Watched(CONFIG, kernels="chunked", seed=0)
    points = train_briefly(model, TOKENS, steps=10, batch=8, window=16)
    assert len(points) == 10
    assert model.carried[0] == 0
    assert min(model.carried[2:]) >= 6


@pytest.mark.parametrize("every", [1])
def test_windows_stand_alone_where_there_is_attention(every: int) -> None:
    shape = {**CONFIG.to_dict(), "attention_every": every}
    model = Watched(HybridConfig(**shape), kernels="chunked", seed=0)
    train_briefly(model, TOKENS, steps=3, batch=4, window=16)
    assert model.carried == [0, 0, 0]
