"""Names of variants and networks of equal size behind them."""

import pytest

from twin.lm.config import HybridConfig, num_parameters, preset
from twin.lm.errors import BadConfig
from twin.lm.variants import BASES, OPTIONS, equal_variants, variant_config

BASE = preset("3.5M")


@pytest.mark.parametrize("size", ["3.5M", "5M", "30M"])
def test_every_variant_and_option_comes_within_a_percent(size: str) -> None:
    names = ["GF-MH", *(name for name in BASES if name != "GF-MH")]
    names += [f"GF-MH+{option}" for option in OPTIONS]
    found = equal_variants(names, preset(size))
    target = found[0].num_parameters
    assert [one.name for one in found] == names
    assert all(abs(one.num_parameters - target) <= 0.01 * target for one in found)
    assert all(one.num_parameters == num_parameters(one.config) for one in found)


def test_depth_and_width_stay_as_they_are() -> None:
    assert {(one.config.d_model, one.config.n_layers) for one in
            equal_variants(["CP", "rwkv", "mamba"], BASE)} == {(192, 6)}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GF-MH", {"fusion": "GF", "gate_init": 0.3}),
        ("gf-rh", {"fusion": "GF", "gate_init": 0.7}),
        ("GF", {"fusion": "GF", "gate_init": 0.5}),
        ("RWKV", {"pathways": "rwkv", "token_shift": "dd"}),
        ("rwkv+noshift", {"pathways": "rwkv", "token_shift": "none"}),
        ("HGF-MH+shift+gamma", {"fusion": "HGF", "token_shift": "static", "residual_gamma": 0.01}),
        ("GF+anchor", {"attention_every": 4}),
        ("GF+h0+alog+identity", {"trainable_h0": True, "a_init": "log", "decay_init": "identity"}),
        ("GF+statenorm+pdrop", {"state_norm_groups": 4, "pathway_dropout": 0.1}),
    ],
)
def test_a_name_says_the_configuration(name: str, expected: dict[str, object]) -> None:
    config = variant_config(name, BASE)
    assert {key: getattr(config, key) for key in expected} == expected


def test_an_anchor_is_one_layer_in_the_middle() -> None:
    for layers in range(1, 9):
        base = HybridConfig(vocab_size=97, n_layers=layers)
        config = variant_config("GF+anchor", base)
        assert sum(map(config.has_attention, range(layers))) == 1


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["GF-MX"], "Did you mean `GF-"),
        (["GF+shfit"], r"no option `\+shfit`"),
        (["GF", "GF"], "twice"),
        ([], "No variant"),
        ([""], "no variant ``"),
        (["GF+"], r"no option `\+`"),
        (["../../etc"], "no variant"),
    ],
)
def test_a_wrong_name_is_refused_with_a_cure(names: list[str], says: str) -> None:
    with pytest.raises(BadConfig, match=says):
        equal_variants(names, BASE)


def test_networks_too_small_to_be_made_equal_are_refused() -> None:
    tiny = HybridConfig(vocab_size=20, d_model=32, n_layers=1, head_dim=16, mamba_head_dim=16)
    with pytest.raises(BadConfig, match="more than 1 % apart"):
        equal_variants(["GF", "rwkv", "mamba", "CP"], tiny)
    assert len(equal_variants(["GF", "rwkv", "mamba", "CP"], tiny, tolerance=0.1)) == 4
