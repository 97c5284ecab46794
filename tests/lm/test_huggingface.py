"""To `transformers` the network is a model like any other, and says exactly what it says to us."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from twin.lm.checkpoint import save_model
from twin.lm.config import HybridConfig
from twin.lm.errors import BadConfig, BadState, BadTokens
from twin.lm.huggingface import (
    HybridCache,
    TwinHybridConfig,
    TwinHybridForCausalLM,
    fast_tokenizer,
    from_checkpoint,
    wrap,
)
from twin.lm.model import HybridLM
from twin.lm.tokenizer import BpeTokenizer, ByteTokenizer, CharTokenizer, Tokenizer

SMALL: dict[str, Any] = {
    "vocab_size": 20, "d_model": 16, "n_layers": 2, "head_dim": 8, "mamba_head_dim": 8,
    "d_state": 4, "decay_rank": 4,
}  # fmt: skip


def network(**options: Any) -> HybridLM:
    model = HybridLM(HybridConfig(**SMALL | options), kernels="chunked", seed=0).eval()
    # Untrained, both pathways say nothing at first; random weights make every token matter.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return model


CONTEXT = {"ngram_max": 3, "ngram_rows": 40, "induction_max": 3, "induction_window": 8}


@pytest.fixture(scope="module", params=[{}, CONTEXT], ids=["plain", "context"])
def model(request: pytest.FixtureRequest) -> HybridLM:
    return network(**request.param)


@pytest.fixture(scope="module")
def wrapped(model: HybridLM) -> TwinHybridForCausalLM:
    return wrap(model)


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(20, shape, generator=torch.Generator().manual_seed(2))


def greedy(model: HybridLM, prompt: list[int], count: int) -> list[int]:
    """By our own step, token by token."""
    logits, state = model(torch.tensor([prompt]))
    out = [int(logits[0, -1].argmax())]
    for _ in range(count - 1):
        next_logits, state = model.step(torch.tensor([out[-1]]), state)
        out.append(int(next_logits[0].argmax()))
    return out


def test_logits_are_the_networks_own(model: HybridLM, wrapped: TwinHybridForCausalLM) -> None:
    ids = tokens(3, 11)
    assert torch.equal(wrapped(ids).logits, model(ids)[0])
    assert torch.equal(wrapped(ids, logits_to_keep=2).logits, model(ids)[0][:, -2:])
    logits, cache = wrapped(ids, return_dict=False)
    assert torch.equal(logits, model(ids)[0])
    assert cache.get_seq_length() == 11


def test_the_loss_is_of_the_next_token(model: HybridLM, wrapped: TwinHybridForCausalLM) -> None:
    ids = tokens(3, 11)
    logits = model(ids)[0]
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(wrapped(ids, labels=ids).loss, expected)


def test_the_cache_carries_the_state(model: HybridLM, wrapped: TwinHybridForCausalLM) -> None:
    ids = tokens(2, 12)
    first = wrapped(ids[:, :7])
    second = wrapped(ids[:, 7:], past_key_values=first.past_key_values)
    torch.testing.assert_close(second.logits, model(ids)[0][:, 7:])
    assert second.past_key_values.get_seq_length() == 12


@pytest.mark.parametrize("tie", [True, False])
def test_saved_and_loaded_through_auto_classes_it_is_the_same(tmp_path: Path, tie: bool) -> None:
    model = network(tie_embeddings=tie, fusion="HGF", trainable_h0=True)
    wrap(model).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    assert AutoConfig.from_pretrained(tmp_path).hybrid == model.config
    again = AutoModelForCausalLM.from_pretrained(tmp_path, kernels="chunked")
    assert isinstance(again, TwinHybridForCausalLM)
    assert again.num_parameters() == model.num_parameters()
    ids = tokens(2, 9)
    assert torch.equal(again(ids).logits, model(ids)[0])


def test_greedy_generation_is_our_own_step(model: HybridLM, wrapped: TwinHybridForCausalLM) -> None:
    ids = tokens(2, 6)
    out = wrapped.generate(ids, max_new_tokens=12, do_sample=False)
    assert out[:, 6:].tolist() == [greedy(model, row.tolist(), 12) for row in ids]


def test_generation_reads_each_token_once(
    wrapped: TwinHybridForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    hidden = wrapped.model.hidden

    def counted(ids: torch.Tensor, state: Any = None) -> Any:
        widths.append(ids.shape[1])
        return hidden(ids, state)

    monkeypatch.setattr(wrapped.model, "hidden", counted)
    wrapped.generate(tokens(1, 6), max_new_tokens=4, do_sample=False)
    assert widths == [6, 1, 1, 1]


def test_prompts_of_different_length_padded_on_the_left_are_as_if_alone(
    model: HybridLM, wrapped: TwinHybridForCausalLM
) -> None:
    prompts = [[3, 1, 4, 1, 5, 9], [2, 7], [1, 8, 2, 8]]
    ids = torch.tensor([[0] * (6 - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (6 - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    out = wrapped.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
    assert out[:, 6:].tolist() == [greedy(model, prompt, 8) for prompt in prompts]


def test_padding_on_the_right_changes_no_logit_of_a_text(
    model: HybridLM, wrapped: TwinHybridForCausalLM
) -> None:
    ids, mask = torch.tensor([[3, 1, 4, 0, 0]]), torch.tensor([[1, 1, 1, 0, 0]])
    output = wrapped(ids, attention_mask=mask)
    torch.testing.assert_close(output.logits[:, :3], model(ids[:, :3])[0])
    assert not output.logits[:, 3:].any()
    for mine, own in zip(output.past_key_values.state, model(ids[:, :3])[1], strict=True):
        torch.testing.assert_close(mine, own)


def test_beams_keep_their_own_states(model: HybridLM, wrapped: TwinHybridForCausalLM) -> None:
    """A beam's score is the sum of its tokens' log-probabilities, right only by its own state."""
    ids = tokens(1, 5)
    out = wrapped.generate(
        ids, max_new_tokens=6, num_beams=4, num_return_sequences=4, do_sample=False,
        length_penalty=0.0, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    for sequence, score in zip(out.sequences, out.sequences_scores, strict=True):
        logits = model(sequence[None])[0][0].log_softmax(-1)
        said = logits[4:-1].gather(1, sequence[5:, None]).sum()
        torch.testing.assert_close(said, score, atol=1e-4, rtol=1e-4)


def test_a_conversation_goes_on_from_its_cache(
    model: HybridLM, wrapped: TwinHybridForCausalLM
) -> None:
    ids = tokens(1, 5)
    first = wrapped.generate(ids, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    assert isinstance(first.past_key_values, HybridCache)
    # The last token that was generated has not been read yet: the cache cuts off what was.
    more = torch.cat([first.sequences, tokens(1, 3)], dim=1)
    second = wrapped.generate(
        more, past_key_values=first.past_key_values, max_new_tokens=5, do_sample=False
    )
    assert second[0, more.shape[1] :].tolist() == greedy(model, more[0].tolist(), 5)


def test_assisted_generation_is_refused(wrapped: TwinHybridForCausalLM) -> None:
    with pytest.raises(ValueError, match="stateful"):
        wrapped.generate(tokens(1, 4), assistant_model=wrapped, max_new_tokens=4)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "give `input_ids`"),
        ({"inputs_embeds": torch.zeros(1, 3, 16)}, "no embeddings"),
        ({"input_ids": tokens(1, 4), "attention_mask": torch.tensor([[1, 0, 1, 1]])}, "a hole"),
        ({"input_ids": tokens(1, 4), "attention_mask": torch.zeros(1, 4)}, "an empty row"),
        ({"input_ids": tokens(2, 4), "attention_mask": torch.zeros(1, 4)}, "has the shape"),
    ],
)
def test_what_a_recurrence_cannot_read_is_refused(
    wrapped: TwinHybridForCausalLM, given: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadTokens, match=reason):
        wrapped(**given)


def test_a_cache_of_another_batch_is_refused(wrapped: TwinHybridForCausalLM) -> None:
    cache = wrapped(tokens(2, 4)).past_key_values
    with pytest.raises(BadState, match="batch"):
        wrapped(tokens(3, 1), past_key_values=cache)


def test_uneven_prompts_with_attention_anchors_are_refused_with_the_reason() -> None:
    wrapped = wrap(network(attention_every=2))
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
    with pytest.raises(BadState, match="one by one"):
        wrapped(tokens(2, 3), attention_mask=mask)


def test_a_shape_that_cannot_be_built_is_refused() -> None:
    with pytest.raises(BadConfig, match="d_model"):
        TwinHybridConfig(shape={"vocab_size": 4, "d_modell": 3})
    with pytest.raises(BadConfig, match="other tokenizer"):
        wrap(network()).resize_token_embeddings(30)


TEXT = "def twin(a, b):\n\treturn a + b  # \u00e4\u20ac\n" * 20


@pytest.mark.parametrize(
    "tokenizer",
    [ByteTokenizer(), CharTokenizer(TEXT), BpeTokenizer.train([TEXT], vocab_size=300)],
    ids=["byte", "char", "bpe"],
)
def test_the_fast_tokenizer_numbers_text_as_ours_does(tokenizer: Tokenizer, tmp_path: Path) -> None:
    fast_tokenizer(tokenizer).save_pretrained(tmp_path)
    fast = AutoTokenizer.from_pretrained(tmp_path)
    assert fast(TEXT)["input_ids"] == tokenizer.encode(TEXT).tolist()
    assert fast.decode(fast(TEXT)["input_ids"]) == TEXT
    marked = "<|user|>a<|end|>"
    assert fast(marked)["input_ids"] == tokenizer.encode(marked, control=True).tolist()
    if not isinstance(tokenizer, CharTokenizer):  # which does not know these characters
        forged = fast(marked, split_special_tokens=True)["input_ids"]
        assert forged == tokenizer.encode(marked).tolist()
    assert len(fast) == tokenizer.vocab_size
    assert fast.eos_token_id == tokenizer.end
    batch = fast(["a", "a b"], padding=True)
    assert batch["attention_mask"][0][0] == 0  # on the left


def test_one_of_our_checkpoints_becomes_a_hugging_face_folder(tmp_path: Path) -> None:
    tokenizer = CharTokenizer("abcdefghijklmno")  # and five control tokens
    model = network()
    save_model(tmp_path / "ours", model, tokenizer, {})
    wrapped, fast = from_checkpoint(tmp_path / "ours", kernels="chunked")
    wrapped.save_pretrained(tmp_path / "theirs")
    fast.save_pretrained(tmp_path / "theirs")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", kernels="chunked")
    words = AutoTokenizer.from_pretrained(tmp_path / "theirs")
    assert again.config.eos_token_id == tokenizer.end
    ids = words("abc", return_tensors="pt")["input_ids"]
    weights = again.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(again(ids).logits, again.model(ids)[0])  # the wrapper adds nothing
    # Where the weights lie in memory can change the order of a sum.
    torch.testing.assert_close(again(ids).logits, model(ids)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_without_transformers_the_cure_is_said() -> None:
    script = """
import sys
sys.modules["transformers"] = None
try:
    import twin.lm.huggingface
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "cognitive-twin[hf]" in done.stdout
