"""Needles and pairs: the generators, and scores that stand beside chance."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from twin.lm.config import HybridConfig
from twin.lm.model import HybridLM
from twin.lm.recall import IGNORED, haystack, mqar, mqar_accuracy, needle_scores
from twin.lm.recall_training import compare_recall, train_on_mqar
from twin.lm.state import State

TEXT = list(range(10)) * 40
TINY = HybridConfig(
    vocab_size=20, d_model=32, n_layers=1, head_dim=16, mamba_head_dim=16, d_state=16, decay_rank=8
)


def tiny(config: HybridConfig = TINY) -> HybridLM:
    return HybridLM(config, kernels="chunked", seed=0)


class Remembers(HybridLM):
    """A network that has read everything and copies what followed the same two symbols before."""

    def init_state(self, batch_size: int) -> State:
        return (torch.zeros(batch_size, 0, dtype=torch.long),)

    def hidden(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        assert state is not None
        return tokens_BT, (torch.cat([state[0], tokens_BT], dim=1),)

    def forward(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        assert state is not None
        seen = torch.cat([state[0], tokens_BT], dim=1)
        logits = torch.zeros(*tokens_BT.shape, self.config.vocab_size)
        for row in range(seen.shape[0]):
            for place in range(tokens_BT.shape[1]):
                here = state[0].shape[1] + place
                pair = seen[row, here - 1 : here + 1].tolist()
                for before in range(1, here):
                    if seen[row, before - 1 : before + 1].tolist() == pair:
                        logits[row, place, seen[row, before + 1]] = 9.0
                        break
        return logits, (seen,)


@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_the_needle_stands_at_its_depth_and_is_asked_for_at_the_end(depth: float) -> None:
    found = haystack(TEXT, length=100, depth=depth, symbols=range(10, 20), seed=3).tokens
    assert len(found) == 100
    needle = found[-12:]
    assert set(needle) <= set(range(10, 20))
    place = round(depth * 76)
    assert found[place : place + 12] == needle
    assert set(found[:place] + found[place + 12 : -12]) <= set(range(10))


def test_depths_share_text_and_needle_and_so_does_the_question_without_one() -> None:
    one, other, bare = (
        haystack(TEXT, length=80, depth=depth, symbols=range(10, 20), seed=5, with_needle=needle)
        for depth, needle in ((0.0, True), (0.7, True), (0.0, False))
    )
    assert one.tokens[-12:] == other.tokens[-12:] == bare.tokens[-12:]
    assert sorted(one.tokens) == sorted(other.tokens)
    assert len(bare.tokens) == len(one.tokens)
    assert set(bare.tokens[:-12]) <= set(range(10))


def test_a_short_text_is_repeated_and_none_is_drawn() -> None:
    assert set(haystack([7], length=60, depth=0.5, symbols=[1, 2], seed=0).tokens) == {1, 2, 7}
    assert set(haystack(None, length=60, depth=0.5, symbols=[1, 2], seed=0).tokens) == {1, 2}
    assert set(haystack([], length=60, depth=0.5, symbols=[1, 2], seed=0).tokens) == {1, 2}


@pytest.mark.parametrize(
    ("length", "depth", "symbols"), [(24, 0.5, [1, 2]), (99, 1.5, [1, 2]), (99, 0.5, [1])]
)
def test_a_question_that_cannot_be_asked_is_refused(
    length: int, depth: float, symbols: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"needle|depth"):
        haystack(TEXT, length=length, depth=depth, symbols=symbols, seed=0)


def test_who_remembers_everything_finds_every_needle() -> None:
    model = Remembers(TINY, kernels="chunked", seed=0)
    scores = needle_scores(model, [0], symbols=range(1, 20), lengths=(40,), depths=(0.0, 1.0),
                           seeds=range(4), key_length=4, value_length=2, window=16)  # fmt: skip
    assert [one.depth for one in scores] == [0.0, 1.0]
    assert all(one.symbol_accuracy > 0.8 for one in scores)
    assert all(one.median_rank == 1 for one in scores)
    assert all(one.gain > 2 for one in scores)


def test_an_untrained_network_finds_none_and_the_chance_says_so() -> None:
    (score,) = needle_scores(tiny(), TEXT, symbols=range(20), lengths=(200,), depths=(0.5,),
                             seeds=range(6), window=64)  # fmt: skip
    assert score.exact == 0.0
    assert score.symbol_accuracy < 0.3
    assert score.symbol_chance == 1 / 20
    assert score.exact_chance == 20**-4
    assert score.chance_rank == 10.5
    assert abs(score.gain) < 0.5
    assert math.isfinite(score.gain_error)
    assert score.log_probability == pytest.approx(-math.log(20), abs=0.5)


def test_reading_in_windows_changes_nothing() -> None:
    whole, cut = (
        needle_scores(tiny(), TEXT, symbols=range(20), lengths=(150,), depths=(0.4,), seeds=(1, 2),
                      window=window)[0]
        for window in (1000, 37)
    )  # fmt: skip
    assert whole.log_probability == pytest.approx(cut.log_probability, abs=1e-5)


def test_the_model_is_left_in_its_mode() -> None:
    model = tiny().train()
    needle_scores(model, TEXT, symbols=range(20), lengths=(60,), depths=(0.5,), seeds=(0,))
    mqar_accuracy(model, mqar(num_keys=2, batch_size=2, vocab_size=20, seed=0))
    assert model.training


@pytest.mark.parametrize(("num_keys", "rounds"), [(4, 1), (9, 1), (3, 4)])
def test_every_key_is_asked_each_round_and_its_value_is_the_answer(
    num_keys: int, rounds: int
) -> None:
    batch = mqar(num_keys=num_keys, batch_size=5, vocab_size=20, seed=1, rounds=rounds)
    assert batch.tokens_BT.shape == (5, 2 * num_keys * (1 + rounds))
    for tokens, targets in zip(batch.tokens_BT, batch.targets_BT, strict=True):
        head = tokens[: 2 * num_keys].tolist()
        pairs = dict(zip(head[::2], head[1::2], strict=True))
        assert len(pairs) == num_keys
        assert all(1 <= key <= 9 and 10 <= value <= 18 for key, value in pairs.items())
        asked = (targets != IGNORED).nonzero().flatten().tolist()
        assert len(asked) == num_keys * rounds
        assert min(asked) == 2 * num_keys
        assert {int(tokens[place]): int(targets[place]) for place in asked} == pairs
        assert sorted(tokens[asked].tolist()) == sorted([*pairs] * rounds)
    assert batch.chance == 1 / num_keys


def test_pairs_are_drawn_by_their_seed() -> None:
    one, same, other = (
        mqar(num_keys=4, batch_size=3, vocab_size=20, seed=seed).tokens_BT for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_too_many_keys_for_the_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match="9 keys"):
        mqar(num_keys=10, batch_size=1, vocab_size=20, seed=0)


def test_who_remembers_everything_answers_everything() -> None:
    class Copies(Remembers):
        """What followed the same key before."""

        def forward(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
            logits = torch.zeros(*tokens_BT.shape, self.config.vocab_size)
            for row, tokens in enumerate(tokens_BT.tolist()):
                for place, key in enumerate(tokens):
                    if key in tokens[:place]:
                        logits[row, place, tokens[tokens.index(key) + 1]] = 1.0
            return logits, ()

    batch = mqar(num_keys=9, batch_size=8, vocab_size=20, seed=0)
    assert mqar_accuracy(Copies(TINY, kernels="chunked", seed=0), batch) == 1.0
    assert mqar_accuracy(tiny(), batch) < 0.4


@pytest.mark.slow
def test_an_anchor_learns_to_look_up() -> None:
    """The pure network of this size needs some hundred steps more for the same."""
    config = replace(TINY, n_layers=2, attention_every=2, attention_heads=2, branch_norm=True)
    model = train_on_mqar(config, num_keys=(4,), steps=300, tokens=1024, seed=0)
    batch = mqar(num_keys=4, batch_size=128, vocab_size=20, seed=99)
    assert mqar_accuracy(model, batch) > 0.5


def test_induction_is_told_what_to_look_up() -> None:
    model = train_on_mqar(
        replace(TINY, induction_max=1), num_keys=(4,), steps=200, tokens=1024, seed=0
    )
    batch = mqar(num_keys=9, batch_size=64, vocab_size=20, seed=99)  # more than it learnt with
    assert mqar_accuracy(model, batch) > 0.9


def test_every_network_is_reported_at_every_number_of_keys() -> None:
    told: list[tuple[int, int]] = []
    points = compare_recall(config=TINY, num_keys=(2, 4), steps=2, tokens=64,
                            tell=lambda done, total: told.append((done, total)))  # fmt: skip
    assert [(one.network, one.num_keys) for one in points] == [
        ("hybrid", 2),
        ("hybrid", 4),
        ("hybrid with an attention anchor", 2),
        ("hybrid with an attention anchor", 4),
        ("hybrid with induction", 2),
        ("hybrid with induction", 4),
    ]
    assert points[0].chance == 0.5
    assert points[2].num_parameters > points[0].num_parameters
    assert told[-1] == (6, 6)
