"""Shapes of networks: what is refused, and with which cure."""

from typing import Any

import pytest

from twin.lm.config import HybridConfig, num_parameters, preset, state_bytes
from twin.lm.errors import BadConfig


@pytest.mark.parametrize(
    ("values", "cure"),
    [
        ({"d_model": 100}, "does not divide"),
        ({"fusion": "XX"}, "Use one of"),
        ({"pathways": "none"}, "Use one of"),
        ({"n_layers": 0}, "1 or more"),
        ({"vocab_size": -3}, "1 or more"),
        ({"gate_init": 1.0}, "between 0 and 1"),
        ({"dropout": 1.0}, "share"),
        ({"conv_width": 1}, "2 or more"),
        ({"logw_min": 0.0}, "negative"),
        ({"attention_every": -1}, "Use 0"),
        ({"attention_every": 1, "attention_heads": 3}, "another number of heads"),
        ({"attention_positions": "rope", "attention_heads": 256}, "have an odd one"),
        ({"ngram_max": 1}, "Use 2 to 16, or 0"),
        ({"ngram_max": 2, "ngram_rows": 0}, "1 or more"),
        ({"ngram_max": 2, "ngram_rows": 2**24 + 1}, "16,777,216 or less"),
        ({"induction_max": 33}, "Use 1 to 32, or 0"),
        ({"induction_max": 4, "induction_window": 0}, "1 or more"),
        ({"induction_window": 2**40}, "1,048,576 or less"),
        ({"induction_max": 4, "vocab_size": 2**24}, "smaller vocabulary"),
        ({"state_norm_groups": 5}, "does not divide"),
        ({"n_layer": 3}, "Did you mean `n_layers`"),
        ({"zzz": 3}, "Leave it out"),
        ({"n_layers": "3"}, "wrong type"),
        ({"n_layers": True}, "wrong type"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused_with_a_cure(
    values: dict[str, Any], cure: str
) -> None:
    with pytest.raises(BadConfig, match=cure):
        HybridConfig.from_dict({"vocab_size": 65, **values})


def test_the_vocabulary_must_be_given() -> None:
    with pytest.raises(BadConfig, match="vocab_size"):
        HybridConfig.from_dict({})


def test_a_shape_survives_its_dictionary() -> None:
    config = preset("3.5M", vocab_size=65, fusion="HY")
    assert HybridConfig.from_dict(config.to_dict()) == config


def test_a_preset_takes_another_vocabulary_and_options() -> None:
    config = preset("5M", vocab_size=65, dropout=0.1)
    assert (config.vocab_size, config.dropout, config.d_model) == (65, 0.1, 256)


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadConfig, match="125M"):
        preset("7B")


def test_the_state_grows_only_with_an_anchor_and_only_to_its_window() -> None:
    plain = preset("3.5M")
    assert state_bytes(plain, 10) == state_bytes(plain, 1_000_000)
    anchored = preset("3.5M", attention_every=3)
    assert state_bytes(anchored, 1000) > state_bytes(anchored, 10)
    windowed = preset("3.5M", attention_every=3, attention_window=128)
    assert state_bytes(windowed, 128) == state_bytes(windowed, 1_000_000)


def test_a_tied_head_costs_nothing() -> None:
    tied = preset("30M")
    assert (
        num_parameters(preset("30M", tie_embeddings=False)) - num_parameters(tied) == 24_000 * 384
    )
