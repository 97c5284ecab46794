"""The decode engine says what the model says, whatever the weights, the batch and the machine."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from twin.lm.config import HybridConfig
from twin.lm.decode import Engine, library, measure_loss_change
from twin.lm.decode import engine as engine_module
from twin.lm.decode.states import ArrayState
from twin.lm.errors import BadConfig, BadState, BadTokens, KernelUnavailable
from twin.lm.kernels.native import build
from twin.lm.model import HybridLM

KNOWN: dict[str, dict[str, Any]] = {
    "GF": {},
    "HGF": {"fusion": "HGF"},
    "WS": {"fusion": "WS"},
    "RF": {"fusion": "RF"},
    "HY": {"fusion": "HY"},
    "CP": {"fusion": "CP"},
    "RWKV-6 alone": {"pathways": "rwkv"},
    "Mamba-2 alone": {"pathways": "mamba"},
    "raw branches": {"branch_norm": False},
    "gamma": {"residual_gamma": 0.3},
    "learnt start": {"trainable_h0": True},
    "own head": {"tie_embeddings": False},
    "n-grams": {"ngram_max": 4, "ngram_rows": 50, "ngram_dim": 12},
    "induction": {"induction_max": 3, "induction_window": 7, "vocab_size": 4},
    "n-grams and induction": {
        "ngram_max": 3, "induction_max": 6, "induction_window": 40, "vocab_size": 3
    },
    "wide Mamba, odd width": {"expand": 2, "d_model": 48, "vocab_size": 300},
    "odd sizes": {"head_dim": 32, "mamba_head_dim": 64, "d_state": 24, "conv_width": 3},
    "hidden no multiple of 32": {"ffn_mult": 0.75, "decay_rank": 5, "d_state": 5},
}  # fmt: skip
UNKNOWN: dict[str, dict[str, Any]] = {
    "an attention anchor": {"attention_every": 2},
    "token shift": {"token_shift": "dd"},
    "fusion MINGRU": {"fusion": "MINGRU"},
    "grouped state norm": {"state_norm_groups": 4},
    "head_dim no multiple of 16": {"head_dim": 8},
}
CONTEXT = {"ngram_max": 3, "ngram_rows": 50, "ngram_dim": 12, "induction_max": 4, "vocab_size": 8}
SHAPES = pytest.mark.parametrize("options", [{}, CONTEXT], ids=["plain", "context"])
LENGTH = 24


def model_of(**options: Any) -> HybridLM:
    """A small network whose every parameter is away from its start, so that none is idle."""
    shape = {"vocab_size": 65, "d_model": 64, "n_layers": 2, "head_dim": 16, "mamba_head_dim": 16,
             "d_state": 16, "decay_rank": 8, "ffn_mult": 2.75} | options  # fmt: skip
    model = HybridLM(HybridConfig.from_dict(shape), kernels="chunked", seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


def tokens_of(model: HybridLM, streams: int, length: int = LENGTH) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(model.config.vocab_size, (streams, length), generator=generator)


def read(engine: Engine, tokens_BT: torch.Tensor, state: Any) -> np.ndarray:
    """Logits (B, T, X) of a step for each token."""
    steps = [engine.step(tokens_BT[:, t].numpy(), state) for t in range(tokens_BT.shape[1])]
    return np.stack(steps, axis=1)


@pytest.mark.parametrize("options", KNOWN.values(), ids=KNOWN)
def test_float32_steps_equal_the_models_forward_pass(options: dict[str, Any]) -> None:
    model = model_of(**options)
    engine = Engine(model, weights="fp32")
    assert engine.name == "native fp32"
    tokens = tokens_of(model, 3)
    state = engine.init_state(3)
    with torch.no_grad():
        expected, end = model(tokens)
    assert np.abs(read(engine, tokens, state) - expected.numpy()).max() < 1e-4
    for ours, theirs in zip(state.to_model(), end, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weights", ["bf16", "int8"])
@pytest.mark.parametrize("options", [{}, {"fusion": "CP"}, {"fusion": "HGF"}, CONTEXT])
def test_smaller_weights_stay_near_and_say_what_became_of_each_matrix(
    weights: Any, options: dict[str, Any]
) -> None:
    model = model_of(**options)
    engine = Engine(model, weights=weights)
    tokens = tokens_of(model, 2)
    with torch.no_grad():
        expected, _ = model(tokens)
    found = read(engine, tokens, engine.init_state(2))
    assert np.abs(found - expected.numpy()).max() < 0.05 * expected.abs().max()
    assert engine.forms["blocks.0.ffn.up"] == weights
    assert engine.forms["blocks.0.rwkv.decay_up"] == "bf16"
    assert engine.weight_bytes < Engine(model, weights="fp32").weight_bytes


@SHAPES
@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8"])
def test_a_streams_numbers_do_not_depend_on_the_rest_of_the_batch(
    weights: Any, options: dict[str, Any]
) -> None:
    model = model_of(**options)
    engine = Engine(model, weights=weights)
    tokens = tokens_of(model, 70)  # more than are worked on together
    together = read(engine, tokens, engine.init_state(70))
    for place in (0, 13, 69):
        alone = read(engine, tokens[place : place + 1], engine.init_state(1))
        assert np.array_equal(alone[0], together[place])


@pytest.mark.parametrize("d_state", [12, 14, 28])
def test_equal_streams_stay_equal_where_the_steps_begin_within_a_vector(d_state: int) -> None:
    model = model_of(d_state=d_state)
    engine = Engine(model, weights="fp32")
    tokens = tokens_of(model, 1, 4).repeat(3, 1)
    together = read(engine, tokens, engine.init_state(3))
    alone = read(engine, tokens[:1], engine.init_state(1))
    for row in together:
        assert np.array_equal(row, alone[0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8"])
def test_a_state_that_is_no_number_gives_logits_that_are_none(weights: Any, value: float) -> None:
    engine = Engine(model_of(), weights=weights)
    state = engine.init_state(2)
    assert isinstance(state, ArrayState)
    state.data[1] = value
    logits = engine.step([5, 5], state)
    assert np.isfinite(logits[0]).all()
    assert np.isnan(logits[1]).all()


def test_more_heads_than_the_native_code_has_room_for_are_torchs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of()  # four Mamba heads
    monkeypatch.setattr("twin.lm.decode.library.MAX_MAMBA_HEADS", 3)
    assert "more than 3 Mamba heads" in Engine(model).fallback


@SHAPES
def test_threads_change_nothing(options: dict[str, Any]) -> None:
    model = model_of(**options)
    tokens = tokens_of(model, 5, 6)
    one, three = Engine(model, weights="fp32"), Engine(model, weights="fp32", threads=3)
    assert np.array_equal(
        read(one, tokens, one.init_state(5)), read(three, tokens, three.init_state(5))
    )
    ours, theirs = (
        engine.run([1, 2, 3, 4, 5], engine.init_state(5), 9, temperature=1.0)
        for engine in (one, three)
    )
    assert np.array_equal(ours, theirs)


@SHAPES
def test_greedy_decoding_equals_torchs(options: dict[str, Any]) -> None:
    model = model_of(**options)
    engine = Engine(model, weights="fp32")
    found = engine.run([1, 7], engine.init_state(2), 40)
    with torch.no_grad():
        state, current = model.init_state(2), torch.tensor([1, 7])
        for t in range(40):
            logits, state = model.step(current, state)
            current = logits.argmax(-1)
            assert current.tolist() == found[:, t].tolist()


@SHAPES
def test_draws_in_the_native_loop_equal_those_outside(options: dict[str, Any]) -> None:
    from twin.lm.sampling import draw, uniform

    model = model_of(**options)
    engine = Engine(model, weights="int8")
    found = engine.run([5], engine.init_state(1), 30, temperature=0.9, seeds=[11], place=4)
    state, current = engine.init_state(1), 5
    for t in range(30):
        logits = engine.step([current], state)[0]
        current = draw(logits, 0.9, uniform(11, 4 + t))
        assert current == found[0, t]


@SHAPES
@pytest.mark.parametrize("length", [1, 30, 100])
def test_a_prompt_read_at_once_leaves_the_state_of_one_read_by_tokens(
    length: int, options: dict[str, Any]
) -> None:
    model = model_of(**options)
    engine = Engine(model, weights="fp32")
    tokens = tokens_of(model, 1, length)
    by_tokens, at_once = engine.init_state(1), engine.init_state(1)
    last = read(engine, tokens, by_tokens)[0, -1]
    found = engine.prefill(tokens[0].numpy(), at_once)
    assert found is not None
    np.testing.assert_allclose(found, last, atol=1e-4)
    assert engine.prefill([], at_once) is None
    for ours, theirs in zip(at_once.to_model(), by_tokens.to_model(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [*KNOWN.values(), *UNKNOWN.values()])
def test_a_state_goes_to_the_models_form_and_back_exactly(options: dict[str, Any]) -> None:
    model = model_of(**options)
    engine = Engine(model)
    with torch.no_grad():
        _, state = model(tokens_of(model, 2, 5))
    back = engine.state_of(state).to_model()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(back, state, strict=True))


def test_a_state_of_another_network_is_refused() -> None:
    with pytest.raises(BadState, match="model that made it"):
        Engine(model_of()).state_of(model_of(n_layers=1).init_state(1))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"attention_every": 2}], ids=["native", "torch"])
def test_streams_join_and_leave_without_touching_the_others(options: dict[str, Any]) -> None:
    model = model_of(**options)
    engine = Engine(model, weights="fp32")
    tokens = tokens_of(model, 3)
    alone = [read(engine, tokens[place : place + 1], engine.init_state(1)) for place in range(3)]
    state = engine.init_state(1)
    first = engine.step(tokens[0, :1].numpy(), state)
    np.testing.assert_allclose(first[0], alone[0][0, 0], atol=1e-5)
    state.append(engine.init_state(2))
    both = [1, 0, 0]
    for t in range(4):
        now = [int(tokens[place, t + both[place]]) for place in range(3)]
        logits = engine.step(now, state)
        for place in range(3):
            expected = alone[place][0, t + both[place]]
            np.testing.assert_allclose(logits[place], expected, atol=1e-5)
    kept = state.row(2)
    state.remove(0)  # the last takes its place
    assert len(state) == 2
    logits = engine.step([int(tokens[2, 4]), int(tokens[1, 4])], state)
    np.testing.assert_allclose(logits[0], alone[2][0, 4], atol=1e-5)
    again = engine.step([int(tokens[2, 4])], kept)
    np.testing.assert_allclose(again[0], logits[0], atol=1e-5)


@pytest.mark.parametrize(("why", "options"), UNKNOWN.items(), ids=UNKNOWN)
def test_what_the_native_code_does_not_know_is_decoded_by_torch_which_is_said(
    why: str, options: dict[str, Any]
) -> None:
    model = model_of(**options)
    engine = Engine(model)
    assert (engine.name, engine.fallback) == ("torch", why)
    tokens = tokens_of(model, 2, 8)
    with torch.no_grad():
        expected, _ = model(tokens)
    found = read(engine, tokens, engine.init_state(2))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert engine.run([1], engine.init_state(1), 3, temperature=1.0).shape == (1, 3)


def test_a_silenced_part_is_decoded_by_torch() -> None:
    model = model_of(ngram_max=2, ngram_rows=64, ngram_dim=16)
    model.blocks[1].ablate = "rwkv"
    assert Engine(model).fallback == "a silenced part"
    model.blocks[1].ablate, model.context.ablate = None, "ngrams"
    assert Engine(model).fallback == "a silenced part"
    model.context.ablate = None
    assert Engine(model).fallback == ""


def test_without_a_compiler_torch_decodes_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_here() -> Any:
        raise KernelUnavailable("there is no C++ compiler.")

    monkeypatch.setattr(engine_module, "load", none_here)
    engine = Engine(model_of())
    assert (engine.name, engine.fallback) == ("torch", "there is no C++ compiler.")
    assert engine.step([1], engine.init_state(1)).shape == (1, 65)


def test_bytes_are_multiplied_exactly_whichever_instructions_do_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that a conversation goes on alike on another processor of the same instruction set."""
    if not library.has_byte_dots():
        pytest.skip("this processor has one way only")
    model = model_of()
    for weight in model.parameters():  # the largest products that there are
        weight.data[0] = weight.data.abs().max()
    found = []
    for dots in (library.BYTE_DOTS, {}):
        monkeypatch.setattr(library, "BYTE_DOTS", dots)
        monkeypatch.setattr(engine_module, "load", library.load.__wrapped__)
        engine = Engine(model, weights="int8")
        state = engine.init_state(3)
        found.append([engine.step([1, 2, 3], state) for _ in range(20)])
    assert np.array_equal(*found)


@pytest.mark.slow  # each level is compiled once
@pytest.mark.parametrize("level", ["avx2", "plain"])
def test_other_instruction_sets_say_the_same(level: str) -> None:
    if level not in build.levels():
        pytest.skip(f"this processor has no {level}")
    program = (
        "import contextlib, sys; sys.path.insert(0, '.')\n"
        "from tests.lm.decode.test_engine import *\n"
        "for options in KNOWN.values():\n"
        "    test_float32_steps_equal_the_models_forward_pass(options)\n"
        "for d_state in (12, 14, 28):\n"
        "    test_equal_streams_stay_equal_where_the_steps_begin_within_a_vector(d_state)\n"
        "for weights in ('fp32', 'bf16', 'int8'):\n"
        "    for value in (float('nan'), float('inf')):\n"
        "        test_a_state_that_is_no_number_gives_logits_that_are_none(weights, value)\n"
        "for options in ({}, CONTEXT):\n"
        "    test_a_streams_numbers_do_not_depend_on_the_rest_of_the_batch('int8', options)\n"
        "    test_smaller_weights_stay_near_and_say_what_became_of_each_matrix('int8', options)\n"
        "with contextlib.suppress(pytest.skip.Exception), pytest.MonkeyPatch.context() as patch:\n"
        "    test_bytes_are_multiplied_exactly_whichever_instructions_do_it(patch)\n"
    )
    environment = {**os.environ, "TWIN_LM_ISA": level}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_loss_of_other_weights_is_measured_against_the_model() -> None:
    model = model_of()
    tokens = tokens_of(model, 1, 200)[0].numpy()
    exact = measure_loss_change(Engine(model, weights="fp32"), tokens)
    assert abs(exact.change) < 1e-5
    assert exact.num_tokens == 199
    small = measure_loss_change(Engine(model, weights="int8"), tokens)
    assert small.model_nats == pytest.approx(exact.model_nats)
    assert 1e-7 < abs(small.change) < 0.01
    with pytest.raises(BadTokens, match="two or more"):
        measure_loss_change(Engine(model), [1])


@pytest.mark.parametrize("tokens", [[65], [-1], [1, 2], []])
def test_tokens_outside_the_vocabulary_or_of_another_number_are_refused(tokens: list[int]) -> None:
    engine = Engine(model_of())
    with pytest.raises(BadTokens):
        engine.step(tokens, engine.init_state(1))


@pytest.mark.parametrize("wrong", [{"weights": "int4"}, {"threads": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadConfig, match="use auto"):
        Engine(model_of(), **wrong)


def test_a_state_is_one_block_of_the_size_that_the_configuration_says() -> None:
    from twin.lm.config import state_bytes

    model = model_of()
    state = Engine(model).init_state(4)
    assert isinstance(state, ArrayState)
    assert state.data.flags.c_contiguous
    assert 0 <= state.num_bytes - 4 * state_bytes(model.config) < 4 * 64
