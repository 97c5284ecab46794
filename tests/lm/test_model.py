"""The network: its parameter counts, its state, causality, and every option against the loops."""

from typing import Any

import pytest
import torch
from torch import Tensor

from twin.lm import state as states
from twin.lm.config import PRESETS, HybridConfig, num_parameters, preset, state_bytes
from twin.lm.errors import BadState, BadTokens, KernelUnavailable
from twin.lm.kernels.registry import choose
from twin.lm.layers import ContextEmbedding, followers
from twin.lm.model import HybridLM

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "HGF": {"fusion": "HGF"},
    "WS": {"fusion": "WS"},
    "RF": {"fusion": "RF"},
    "HY": {"fusion": "HY"},
    "CP": {"fusion": "CP"},
    "minGRU": {"fusion": "MINGRU"},
    "RWKV-6 alone": {"pathways": "rwkv"},
    "Mamba-2 alone": {"pathways": "mamba"},
    "learnt shift": {"token_shift": "static"},
    "data-dependent shift": {"token_shift": "dd"},
    "anchor": {"attention_every": 2},
    "normalised anchor": {"attention_every": 2, "attention_norm": True},
    "windowed anchor": {"attention_every": 1, "attention_window": 8},
    "turned anchor": {"attention_every": 1, "attention_positions": "rope"},
    "windowed, turned anchor": {
        "attention_every": 1,
        "attention_window": 8,
        "attention_positions": "rope",
    },
    "n-grams": {"ngram_max": 4, "ngram_rows": 40, "ngram_dim": 16},
    "induction": {"induction_max": 3, "induction_window": 12, "ngram_dim": 16},
    "n-grams and induction": {"ngram_max": 3, "ngram_rows": 40, "induction_max": 4},
    "gamma": {"residual_gamma": 0.01},
    "state norm": {"state_norm_groups": 4},
    "learnt start": {"trainable_h0": True},
    "own head": {"tie_embeddings": False},
    "raw branches": {"branch_norm": False},
    "log A": {"a_init": "log"},
    "identity decay": {"decay_init": "identity"},
    "wide Mamba": {"expand": 2},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def small(**options: Any) -> HybridConfig:
    shape: dict[str, Any] = {
        "vocab_size": 30, "d_model": 32, "n_layers": 2, "head_dim": 16, "mamba_head_dim": 16,
        "d_state": 16, "decay_rank": 8,
    }  # fmt: skip
    return HybridConfig(**(shape | options))


def trained(config: HybridConfig, kernels: str = "chunked") -> HybridLM:
    """A network whose weights are not at their start any more, in float64: gates are open, h0 is
    not zero."""
    model = HybridLM(config, kernels=kernels, seed=1).double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += 0.1 * noise
    return model


def tokens(batch: int = 2, time: int = 45, vocab_size: int = 30) -> Tensor:
    return torch.randint(vocab_size, (batch, time), generator=torch.Generator().manual_seed(3))


def distance(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())


@every_option
def test_the_parameters_are_counted_without_building_the_network(options: dict[str, Any]) -> None:
    config = small(**options)
    assert HybridLM(config, kernels="chunked").num_parameters() == num_parameters(config)


@every_option
def test_chunks_parts_and_single_steps_all_equal_the_loop(options: dict[str, Any]) -> None:
    config, text = small(**options), tokens()
    true, final = trained(config, "reference")(text)
    model = trained(config)
    whole, state = model(text)
    assert distance(whole, true) < 1e-10
    assert all(distance(a, b) < 1e-10 for a, b in zip(state, final, strict=True))
    first, state = model(text[:, :20])
    second, state = model(text[:, 20:], state)
    assert distance(torch.cat([first, second], dim=1), true) < 1e-10
    state = model.init_state(2)
    logits = []
    for t in range(text.shape[1]):
        one, state = model.step(text[:, t], state)
        logits.append(one)
    assert distance(torch.stack(logits, dim=1), true) < 1e-10
    assert states.num_bytes(state) == 2 * 2 * state_bytes(config, text.shape[1])  # float64, 2 rows


@every_option
def test_nothing_later_reaches_an_earlier_prediction(options: dict[str, Any]) -> None:
    model, text = trained(small(**options)), tokens()
    changed = text.clone()
    changed[:, 30:] = (changed[:, 30:] + 1) % 30
    with torch.no_grad():
        assert torch.equal(model(text)[0][:, :30], model(changed)[0][:, :30])
        assert not torch.equal(model(text)[0][:, 30:], model(changed)[0][:, 30:])


@every_option
def test_every_parameter_gets_a_gradient(options: dict[str, Any]) -> None:
    model, text = trained(small(**options)), tokens()
    logits, _ = model(text[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()).backward()
    silent = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert not silent


def test_streams_of_a_batch_do_not_see_each_other() -> None:
    model, text = trained(small()), tokens(batch=3)
    together, state = model(text)
    for row in range(3):
        alone, own = model(text[row : row + 1])
        assert distance(alone[0], together[row]) < 1e-12
        assert all(
            distance(a, b) < 1e-12 for a, b in zip(own, states.take(state, [row]), strict=True)
        )


def test_a_silent_pathway_changes_the_answer_and_can_speak_again() -> None:
    model, text = trained(small()), tokens()
    with torch.no_grad():
        both = model(text)[0]
        for pathway in ("rwkv", "mamba"):
            for block in model.blocks:
                block.ablate = pathway
            assert not torch.allclose(model(text)[0], both)
        for block in model.blocks:
            block.ablate = None
        assert torch.equal(model(text)[0], both)


def test_a_tap_shows_both_branches_and_the_gate() -> None:
    model = trained(small())
    model.blocks[1].tap = {}
    model(tokens())
    assert {name: tuple(x.shape) for name, x in model.blocks[1].tap.items()} == {
        "r": (2, 45, 32), "m": (2, 45, 32), "gate": (2, 45, 1),
        "x_in": (2, 45, 32), "x_out": (2, 45, 32),
    }  # fmt: skip


def test_one_seed_gives_one_network_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (HybridLM(small(), kernels="chunked", seed=4) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_fresh_network_knows_nothing() -> None:
    model, text = HybridLM(small(), kernels="chunked", seed=0), tokens(8, 100)
    logits, _ = model(text[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())
    assert float(loss.detach()) == pytest.approx(torch.log(torch.tensor(30.0)).item(), abs=0.1)


def test_dropout_is_for_training_alone_and_pathway_dropout_silences_whole_sequences() -> None:
    model, text = trained(small(dropout=0.2, pathway_dropout=0.5)), tokens()
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(text)[0], model(text)[0])
        model.train()
        assert not torch.equal(model(text)[0], model(text)[0])


def test_autocast_changes_little() -> None:
    model, text = HybridLM(small(), kernels="chunked", seed=0), tokens()
    with torch.no_grad():
        exact = model(text)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(text)[0]
    assert found.dtype == torch.float32
    assert distance(found, exact) < 2e-2


def test_a_state_of_another_network_or_batch_is_refused() -> None:
    model, text = HybridLM(small(), kernels="chunked"), tokens()
    with pytest.raises(BadState, match="made it"):
        model(text, model.init_state(3))
    other = HybridLM(small(n_layers=3), kernels="chunked")
    with pytest.raises(BadState, match="tensors"):
        model(text, other.init_state(2))


def test_tokens_without_a_batch_are_refused() -> None:
    with pytest.raises(BadTokens, match="batch"):
        HybridLM(small(), kernels="chunked")(tokens()[0])


def test_kernels_that_do_not_exist_are_named_with_those_that_do() -> None:
    with pytest.raises(KernelUnavailable, match="chunked"):
        HybridLM(small(), kernels="cuda")


@pytest.mark.parametrize("name", ["3.5M", "5M", "8M", "30M", "125M"])
def test_a_preset_has_the_size_of_its_name(name: str) -> None:
    wanted = float(name.removesuffix("M")) * 1e6
    assert abs(num_parameters(preset(name)) / wanted - 1) < 0.03
    assert name in PRESETS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_compiled_blocks_answer_as_the_others_do() -> None:
    config, text = small(), tokens()
    plain = HybridLM(config, kernels="chunked", seed=1)
    compiled = HybridLM(config, kernels="compiled", seed=1)
    with torch.no_grad():
        assert distance(compiled(text)[0], plain(text)[0]) < 1e-5


def test_an_n_gram_is_its_tokens_in_their_order() -> None:
    layer = ContextEmbedding(small(ngram_max=3, ngram_rows=4096, ngram_dim=8))
    nothing = torch.zeros(1, 2)

    def last(*text: int) -> Tensor:
        return layer(torch.tensor([text]), nothing, choose("chunked"))[0][0, -1]

    assert torch.equal(last(7, 1, 2, 3), last(9, 1, 2, 3))  # what came before the longest
    others = [last(2, 1, 3), last(1, 3), last(3), last(0, 3), last(0, 0, 3)]
    assert not any(torch.equal(last(1, 2, 3), other) for other in others)
    assert not torch.equal(others[2], others[3])  # the first token is not one after token 0


def test_the_rows_of_a_large_vocabulary_stay_inside_the_tables() -> None:
    layer = ContextEmbedding(small(vocab_size=1_000_000, ngram_max=16, ngram_rows=1000))
    seen = torch.randint(1, 1_000_001, (4, 300), generator=torch.Generator().manual_seed(1))
    rows = torch.stack(list(layer._rows(seen, 300 - 15)))
    starts = 1000 * torch.arange(15)[:, None, None]
    assert ((rows >= starts) & (rows < starts + 1000)).all()
    # Shared evenly: of 1,140 different n-grams, two thirds of a thousand rows are expected.
    assert all(500 < len(of_length.unique()) < 800 for of_length in rows)


def test_n_grams_that_a_short_hash_would_take_for_one_another_are_told_apart() -> None:
    """Thue and Morse's sequence and its complement: every hash of few bits that is a polynomial in
    an odd base gives both the same value."""
    signs = [bin(place).count("1") % 2 for place in range(32)]
    first, second = ([99 + 2 * (sign ^ flip) for sign in signs] for flip in (0, 1))
    layer = ContextEmbedding(small(vocab_size=256, induction_max=32, induction_window=200))
    text = torch.tensor([[1, *first, 7, 2, *second, 3]]) + 1
    *_, longest = layer._rows(text, text.shape[1])
    assert longest.unique().tolist() == [layer.start]
    again = torch.tensor([[1, *first, 7, 2, *first, 3]]) + 1
    *_, longest = layer._rows(again, again.shape[1])
    assert longest[0, -2] == layer.start + 8


def test_remembered_tokens_stay_exact_in_a_network_of_bfloat16() -> None:
    model = HybridLM(small(vocab_size=3000, ngram_max=4), kernels="chunked", seed=1).bfloat16()
    with torch.no_grad():
        _, state = model(torch.tensor([[2999, 2997, 2995]]))
    assert state[-1].tolist() == [[3000.0, 2998.0, 2996.0]]


@pytest.mark.parametrize("token", [31.0, -1.0, float("nan"), 1e30])
def test_a_state_that_remembers_what_is_no_token_is_refused(token: float) -> None:
    model = HybridLM(small(induction_max=3, induction_window=8), kernels="chunked", seed=1)
    *others, recent = model.init_state(2)
    recent[1, -1] = token
    with pytest.raises(BadState, match="does not have"):
        model(tokens(), (*others, recent))


@pytest.mark.parametrize("length", [1, 2, 3, 6])
def test_what_followed_is_looked_up_as_a_search_would_find_it(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    seen = torch.randint(1, 4, (3, 80), generator=generator)
    seen[0, :9] = 0  # a stream that began later
    codes = sum(
        torch.nn.functional.pad(seen, (back, 0))[:, :80] * 5**back for back in range(length)
    )
    codes = torch.as_tensor(codes)
    whole = torch.nn.functional.pad(seen, (length - 1, 0))[:, :80] != 0
    found = followers(seen, codes, whole, window=20, time=80)
    for row, text in zip(found.tolist(), seen.tolist(), strict=True):
        assert row == [_followed(text, end, length, window=20) for end in range(80)]
    assert torch.equal(followers(seen, codes, whole, window=20, time=7), found[:, -7:])
    for end in range(1, 81):
        last = followers(seen[:, :end], codes[:, :end], whole[:, :end], window=20, time=1)
        assert torch.equal(last, found[:, end - 1 : end])


def _followed(text: list[int], end: int, length: int, window: int) -> int:
    own = text[max(end + 1 - length, 0) : end + 1]
    if len(own) < length or 0 in own:
        return 0
    for there in range(end - 1, max(end - window, length - 1) - 1, -1):
        if text[there + 1 - length : there + 1] == own:
            return text[there + 1]
    return 0
