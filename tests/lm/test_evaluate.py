"""A validation figure covers the whole text, each token once."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from twin.lm.config import HybridConfig
from twin.lm.errors import BadCorpus
from twin.lm.evaluate import evaluate
from twin.lm.model import HybridLM

CONFIG = HybridConfig(
    vocab_size=11, d_model=16, n_layers=1, head_dim=8, mamba_head_dim=8, d_state=8, decay_rank=4
)


def model() -> HybridLM:
    return HybridLM(CONFIG, kernels="chunked", seed=0)


def tokens(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 11, count).astype(np.uint16)


@pytest.mark.parametrize("count", [2, 9, 16, 17, 33, 100])
@pytest.mark.parametrize("carried", [False, True])
def test_every_token_but_the_first_is_predicted_once(count: int, carried: bool) -> None:
    found = evaluate(model(), tokens(count), window=16, carried=carried, batch=2)
    assert found.num_tokens == count - 1
    assert found.nats_per_token == pytest.approx(math.log(11), abs=0.5)
    assert 0 < found.entropy <= math.log(11)


def test_windows_have_no_past_and_streams_have() -> None:
    net, text = model(), tokens(65)
    with torch.no_grad():
        x = torch.from_numpy(text.astype(np.int64))
        windows = [
            F.cross_entropy(net(x[None, a : a + 16])[0][0], x[a + 1 : a + 17]).item()
            for a in range(0, 64, 16)
        ]
        whole = F.cross_entropy(net(x[None, :-1])[0][0], x[1:]).item()
    found = evaluate(net, text, window=16, batch=3, precision="fp32")
    assert found.nats_per_token == pytest.approx(sum(windows) / 4, abs=1e-5)
    one_stream = evaluate(net, text, window=64, carried=True, precision="fp32")
    assert one_stream.nats_per_token == pytest.approx(whole, abs=1e-5)


def test_a_carried_state_makes_windows_of_any_length_agree() -> None:
    net, text = model(), tokens(24 * 8 * 2 + 1)
    losses = [
        evaluate(net, text, window=w, carried=True, precision="fp32").nats_per_token
        for w in (8, 24, 48)
    ]
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-5)


def test_evaluation_leaves_the_model_in_its_mode() -> None:
    net = model().train()
    evaluate(net, tokens(20), window=4)
    assert net.training


def test_bits_per_byte_count_the_bytes_of_the_text() -> None:
    found = evaluate(model(), tokens(20), window=4)
    assert found.bits_per_byte(20, 40) == pytest.approx(found.nats_per_token / 2 / math.log(2))


def test_one_token_predicts_nothing() -> None:
    with pytest.raises(BadCorpus, match="nothing to predict"):
        evaluate(model(), tokens(1))


def test_a_part_is_windows_from_all_over_the_text() -> None:
    net, text = model(), tokens(16 * 9 + 5)
    told: list[tuple[int, int]] = []
    found = evaluate(net, text, window=16, windows=3, tell=lambda *how: told.append(how))
    pieces = [evaluate(net, text[at : at + 17], window=16) for at in (0, 64, 128)]
    assert found.num_tokens == 48
    assert found.nats_per_token == pytest.approx(sum(p.nats_per_token for p in pieces) / 3)
    assert told[-1] == (48, 48)
    assert evaluate(net, text, window=16, windows=99) == evaluate(net, text, window=16)
