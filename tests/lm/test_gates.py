"""The gates before training: tokenizer, kernels, forward pass, first predictions."""

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from twin.lm.config import HybridConfig
from twin.lm.gates import g0_kernels, g0_tokenizer, g1, g2
from twin.lm.kernels.chunked import Chunked
from twin.lm.kernels.registry import BACKENDS, Kernels
from twin.lm.model import HybridLM
from twin.lm.state import State
from twin.lm.tokenizer import CONTROL, ByteTokenizer, CharTokenizer, Ids, Tokenizer
from twin.lm.verdict import Verdict

TINY = HybridConfig(
    vocab_size=20, d_model=32, n_layers=2, head_dim=16, mamba_head_dim=16, d_state=16, decay_rank=8
)


def tiny(kernels: str | Kernels = "chunked", **options: object) -> HybridLM:
    return HybridLM(replace(TINY, **options), kernels=kernels, seed=0)


def tokens(length: int = 97) -> Tensor:
    return torch.randint(20, (2, length), generator=torch.Generator().manual_seed(0))


def grades(verdicts: Iterable[Verdict]) -> dict[str, str]:
    return {one.check: one.grade for one in verdicts}


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer("abc"),
                                       CharTokenizer("abc<|end>userasistymol")])  # fmt: skip
def test_control_tokens_of_our_vocabularies_pass(tokenizer: Tokenizer) -> None:
    found = g0_tokenizer(tokenizer, tokenizer.vocab_size)
    assert grades(found) == {"vocabulary": "pass", "control tokens": "pass"}


def test_a_vocabulary_without_control_tokens_is_warned_of() -> None:
    tokenizer = ByteTokenizer(control_tokens=False)
    assert grades(g0_tokenizer(tokenizer, 256))["control tokens"] == "warn"


class Wrong(ByteTokenizer):
    """A byte vocabulary whose control tokens can be spoilt."""

    def __init__(self, control: dict[str, int]) -> None:
        super().__init__()
        self.control = control


class Leaky(ByteTokenizer):
    """Turns a mark in plain text into the control token."""

    def encode_bytes(self, data: bytes) -> Ids:
        return self.encode(data.decode(), control=True)


GOOD = dict(ByteTokenizer().control)


@pytest.mark.parametrize(
    ("tokenizer", "says"),
    [
        (Wrong({k: v for k, v in GOOD.items() if k != "<|user|>"}), "<|user|> is missing"),
        (Wrong(GOOD | {"<|end|>": GOOD["<|user|>"]}), "shares its number"),
        (Wrong(GOOD | {"<|tool|>": 9999}), "does not know"),
        (Leaky(), "written in a text becomes the control token"),
    ],
)
def test_wrong_control_tokens_fail_and_name_the_first(tokenizer: Tokenizer, says: str) -> None:
    verdict = g0_tokenizer(tokenizer, 256 + len(CONTROL))[1]
    assert verdict.grade == "fail"
    assert says in verdict.sentence


def test_a_control_token_of_several_tokens_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = ByteTokenizer()
    monkeypatch.setattr(
        tokenizer, "encode", lambda text, control=False: tokenizer.encode_text(text)
    )
    verdict = g0_tokenizer(tokenizer, tokenizer.vocab_size)[1]
    assert (verdict.grade, verdict.value) == ("fail", 0.0)
    assert "7 tokens, not one" in verdict.sentence


def test_another_models_tokenizer_fails() -> None:
    assert grades(g0_tokenizer(CharTokenizer("ab"), 20))["vocabulary"] == "fail"


def test_a_fallback_is_named_and_missing_kernels_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    fallback = g0_kernels("reference")
    assert fallback.grade == "warn"
    assert "`reference`" in fallback.sentence
    missing = g0_kernels("none such")
    assert missing.grade == "fail"
    assert "none such" in missing.sentence

    class Fast(Chunked):
        name = "native"

    monkeypatch.setitem(BACKENDS, "native", Fast)
    assert g0_kernels("native").grade == "pass"


@pytest.mark.parametrize(
    "options",
    [{}, {"pathways": "rwkv"}, {"pathways": "mamba"}, {"fusion": "MINGRU"},
     {"token_shift": "dd", "trainable_h0": True}, {"attention_every": 2}],
)  # fmt: skip
def test_a_sound_network_passes_every_check_of_the_forward_pass(
    options: dict[str, object],
) -> None:
    found = g1(tiny(**options), tokens())
    assert {one.grade for one in found} == {"pass"}
    assert [one.check for one in found] == [
        "shape", "finite", "in one piece = reference", "state handed on = reference",
        "token by token = reference", "causality",
    ]  # fmt: skip


def test_nan_weights_fail_and_nothing_further_is_asked() -> None:
    model = tiny()
    model.blocks[1].ffn.up.weight.data[0, 0] = math.nan
    found = g1(model, tokens())
    assert grades(found) == {"shape": "pass", "finite": "fail"}
    assert "earlier checkpoint" in found[1].sentence


class WrongChunks(Chunked):
    """Right for one token, wrong for several: each counts twice in its own output."""

    name = "wrong"

    def ssd(
        self, x_BTMP: Tensor, loga_BTM: Tensor, b_BTN: Tensor, c_BTN: Tensor, state_BMPN: Tensor
    ) -> tuple[Tensor, Tensor]:
        y_BTMP, state = super().ssd(x_BTMP, loga_BTM, b_BTN, c_BTN, state_BMPN)
        return (y_BTMP + x_BTMP if x_BTMP.shape[1] > 1 else y_BTMP), state


def test_chunks_that_disagree_with_the_recurrence_fail() -> None:
    model = tiny(WrongChunks())
    for block in model.blocks:
        nn.init.normal_(block.mamba.out_proj.weight, std=1.0)
        nn.init.zeros_(block.mamba.skip)
    found = grades(g1(model, tokens()))
    assert found["in one piece = reference"] == "fail"
    assert found["token by token = reference"] == "pass"
    assert found["causality"] == "pass"


class SeesAhead(HybridLM):
    """Adds the mean of all hidden vectors, also of those that come later."""

    def hidden(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        h_BTD, new = super().hidden(tokens_BT, state)
        return h_BTD + h_BTD.mean(dim=1, keepdim=True), new


def test_a_leak_of_the_future_fails() -> None:
    found = g1(SeesAhead(TINY, kernels="chunked", seed=0), tokens())
    assert grades(found)["causality"] == "fail"
    assert "future leaks" in found[-1].sentence


class ForgetsState(HybridLM):
    """Starts anew at every call."""

    def forward(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return super().forward(tokens_BT, None)


def test_a_state_that_is_not_handed_on_fails() -> None:
    found = grades(g1(ForgetsState(TINY, kernels="chunked", seed=0), tokens()))
    assert found["in one piece = reference"] == "pass"
    assert found["state handed on = reference"] == "fail"
    assert found["token by token = reference"] == "fail"


class WrongShape(HybridLM):
    """Forgets the last symbol of the vocabulary."""

    def forward(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        logits, new = super().forward(tokens_BT, state)
        return logits[..., :-1], new


def test_a_wrong_shape_fails() -> None:
    assert grades(g1(WrongShape(TINY, kernels="chunked", seed=0), tokens()))["shape"] == "fail"


@pytest.mark.parametrize("vocab_size", [20, 97, 24_000])
def test_an_untrained_network_is_as_uncertain_as_its_vocabulary_is_large(vocab_size: int) -> None:
    found = g2(tiny(vocab_size=vocab_size), tokens())
    assert grades(found) == {"entropy": "pass", "first loss": "pass"}
    assert f"ln({vocab_size})" in found[0].sentence


@pytest.mark.parametrize(("std", "grade"), [(0.16, "warn"), (4.0, "fail")])
def test_weights_that_are_sure_from_the_start_are_found(std: float, grade: str) -> None:
    model = tiny(tie_embeddings=False)
    assert model.head is not None
    nn.init.normal_(model.head.weight, std=std)
    assert grades(g2(model, tokens()))["entropy"] == grade


def test_nan_fails_g2_too() -> None:
    model = tiny()
    model.embed.weight.data[:] = math.nan
    assert set(grades(g2(model, tokens())).values()) == {"fail"}
