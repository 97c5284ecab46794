"""Streams that join and leave: the same text as alone, whole characters, stops, ends, no leaks."""

import time
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from twin.lm.config import HybridConfig
from twin.lm.decode import Engine
from twin.lm.errors import BadTokens, LmError
from twin.lm.generate import Busy, Continuation, Generator, Piece, Token, encode, first_token
from twin.lm.model import HybridLM
from twin.lm.sampling import Drawn, Sampling
from twin.lm.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer

SHAPE = {"d_model": 32, "n_layers": 2, "head_dim": 16, "mamba_head_dim": 16, "d_state": 16,
         "decay_rank": 8, "ffn_mult": 2.0}  # fmt: skip


def generator_of(tokenizer: Tokenizer, **settings: int) -> Generator:
    shape = {"vocab_size": tokenizer.vocab_size, **SHAPE}
    model = HybridLM(HybridConfig.from_dict(shape), kernels="chunked", seed=4)
    return Generator(Engine(model, weights="fp32"), tokenizer, **settings)


@pytest.fixture
def characters() -> Iterator[Generator]:
    """Knows a to f and a blank, without control tokens: it never ends by itself."""
    made = generator_of(CharTokenizer("abcdef ", control_tokens=False))
    yield made
    made.close()


def test_a_stream_says_the_same_alone_and_among_others(characters: Generator) -> None:
    prompts = ["abc", "", "f" * 30, "ab " * 120, "d"]
    settings = [Sampling(max_tokens=20 + 7 * n, seed=n) for n in range(5)]
    alone = [
        characters.start(prompt, each).answer().text
        for prompt, each in zip(prompts, settings, strict=True)
    ]
    under_way = []
    for prompt, each in zip(prompts, settings, strict=True):
        under_way.append(characters.start(prompt, each))
        time.sleep(0.002)  # they join in the middle of the others
    assert [each.answer().text for each in under_way] == alone
    assert [len(text) for text in alone] == [20, 27, 34, 41, 48]
    assert characters.num_active == 0


def test_more_streams_than_places_wait_for_one(characters: Generator) -> None:
    made = generator_of(characters.tokenizer, max_streams=2)
    expected = characters.start("a", Sampling(max_tokens=9, seed=3)).answer().text
    under_way = [made.start("a", Sampling(max_tokens=9, seed=3)) for _ in range(7)]
    assert {each.answer().text for each in under_way} == {expected}
    made.close()


def test_a_seed_repeats_a_text_and_none_does_not(characters: Generator) -> None:
    def say(seed: int | None) -> str:
        return characters.start("ab", Sampling(max_tokens=40, seed=seed)).answer().text

    assert say(5) == say(5) != say(6)
    assert say(None) != say(None)


def test_the_greedy_text_is_torchs(characters: Generator) -> None:
    answer = characters.start("ab", Sampling(max_tokens=15, temperature=0)).answer()
    model, tokens = characters.engine.model, list(characters.tokenizer.encode("ab"))
    for _ in range(15):
        with torch.no_grad():
            logits, _ = model(torch.tensor([tokens]))
        tokens.append(int(logits[0, -1].argmax()))
    assert answer.text == characters.tokenizer.decode(tokens[2:])
    assert (answer.finish, answer.num_prompt_tokens) == ("length", 2)


def test_a_prompt_that_was_read_before_is_not_read_again(characters: Generator) -> None:
    settings = Sampling(max_tokens=10, seed=1)
    prompt = "abc def " * 100
    first = characters.start(prompt, settings).answer()
    assert first.num_cached_tokens == 0
    second = characters.start(prompt, settings).answer()
    assert (second.text, second.num_cached_tokens) == (first.text, len(prompt) - 1)
    longer = characters.start(prompt + first.text + "abc", settings).answer()
    assert longer.num_cached_tokens == len(prompt) + len(first.text) - 1
    other = characters.start(prompt[:600] + "f" * 50, settings).answer()
    assert other.num_cached_tokens == 512, "the beginning, up to a block's end"


def test_a_kept_state_continues_where_it_stood(characters: Generator) -> None:
    kept = []
    settings = Sampling(max_tokens=12, seed=1)
    first = characters.start("abc", settings, keep=lambda t, s: kept.append((t, s))).answer()
    ((tokens, state),) = kept
    assert characters.tokenizer.decode(tokens) == "abc" + first.text[:-1]
    prompt = "abc" + first.text + "de"
    fresh = generator_of(characters.tokenizer)
    restored = fresh.start(prompt, settings, restored=(len(tokens), state)).answer()
    fresh.close()
    assert restored.num_cached_tokens == len(tokens)
    assert restored.text == generator_text(characters, prompt, settings)


def generator_text(generator: Generator, prompt: str, settings: Sampling) -> str:
    return generator.start(prompt, settings).answer().text


def test_a_text_ends_before_its_stop_which_is_never_shown_in_part(characters: Generator) -> None:
    free = characters.start("a", Sampling(max_tokens=60, seed=2)).answer().text
    stop = free[20:24]
    at = free.index(stop)
    pieces = list(characters.start("a", Sampling(max_tokens=60, seed=2, stop=("zzz", stop))))
    assert "".join(piece.text for piece in pieces) == free[:at]
    assert pieces[-1].finish == "stop"
    shown = ""
    for piece in pieces:
        shown += piece.text
        assert free[:at].startswith(shown)
    assert sum(len(piece.tokens) for piece in pieces) == at


def test_what_only_looked_like_a_stop_comes_out_in_the_end(characters: Generator) -> None:
    free = characters.start("a", Sampling(max_tokens=30, seed=2)).answer().text
    answer = characters.start(
        "a", Sampling(max_tokens=30, seed=2, stop=(free[-3:] + "zz", free[5:9] + "z"))
    ).answer()
    assert (answer.text, answer.finish) == (free, "length")


def test_a_control_token_ends_a_text_and_is_not_in_it() -> None:
    made = generator_of(ByteTokenizer())
    end = made.tokenizer.end
    assert end is not None
    answer = made.start("x", Sampling(max_tokens=9, logit_bias={end: 1000.0})).answer()
    assert (answer.text, answer.finish, answer.tokens) == ("", "stop", ())
    made.close()


def force(monkeypatch: pytest.MonkeyPatch, tokens: Iterable[int]) -> None:
    """Whatever the model thinks, these are drawn."""
    script = iter(tokens)
    monkeypatch.setattr(
        "twin.lm.generate.choose", lambda *_: Drawn(token=next(script), logprob=None)
    )


def test_what_is_kept_of_a_text_that_ended_by_itself_knows_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = generator_of(ByteTokenizer())
    assert made.tokenizer.end is not None
    force(monkeypatch, [*b"ABC", made.tokenizer.end])
    kept = []
    made.start("hello", Sampling(), keep=lambda t, s: kept.append((t, s))).answer()
    ((tokens, state),) = kept
    assert bytes(tokens) == b"helloABC"
    expected = made.engine.init_state(1)
    made.engine.prefill(list(b"helloABC"), expected)
    cached = made.cache.longest(tokens)
    assert cached is not None
    assert cached[0] == 8
    for each in (state, cached[1].to_model()):
        for ours, theirs in zip(each, expected.to_model(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    made.close()


def test_a_fault_of_one_listener_or_one_keeper_leaves_the_others_answers(
    characters: Generator,
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no space left")

    other = characters.start("b", Sampling(max_tokens=60))
    unheard = characters.start("a", Sampling(max_tokens=60), emit=broken)
    unkept = characters.start("a", Sampling(max_tokens=3), keep=broken).answer()
    assert (unkept.finish, len(unkept.text)) == ("length", 3)
    assert other.answer().finish == "length"
    assert characters.start("a", Sampling(max_tokens=3)).answer().finish == "length"
    assert unheard.num_tokens < 60
    assert not characters.has_failed


def pieces_of(said: str, stop: tuple[str, ...]) -> list[Piece]:
    """What comes out for a text that is said byte by byte."""
    pieces: list[Piece] = []
    text = ByteTokenizer().stream()
    forced = Continuation(np.array([1]), Sampling(stop=stop), text, pieces.append, None, None)
    for byte in said.encode():
        token = Token(token=byte, text="", data=bytes([byte]), logprob=None)
        if forced.say(token):
            forced.finish("stop")
            return pieces
    forced.finish("length")
    return pieces


def test_only_what_may_begin_a_stop_text_waits() -> None:
    pieces = pieces_of("a" * 9, ("ab",))
    assert [piece.text for piece in pieces] == ["a"] * 9
    assert [len(piece.tokens) for piece in pieces] == [1] * 9
    pieces = pieces_of("xaabab-acd", ("abc", "acd"))
    assert [piece.text for piece in pieces if piece.text] == ["x", "a", "ab", "ab-"]
    assert sum(len(piece.tokens) for piece in pieces) == 7
    pieces = pieces_of("€aa€€b", ("aa€x", "€b"))
    assert "".join(piece.text for piece in pieces) == "€aa€"
    assert b"".join(token.data for piece in pieces for token in piece.tokens) == "€aa€".encode()


def test_tokens_say_where_in_the_decoded_text_they_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    made = generator_of(ByteTokenizer())
    force(monkeypatch, "a€b".encode())
    answer = made.start("x", Sampling(max_tokens=5)).answer()
    assert [token.offset for token in answer.tokens] == [0, 1, 1, 1, 2]
    made.close()


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_a_text_ends_before_the_first_stop_that_is_complete(said: str, stop: list[str]) -> None:
    ends = [(said.index(each) + len(each), said.index(each)) for each in stop if each in said]
    first = min(ends)[0] if ends else 0
    expected = min(at for end, at in ends if end == first) if ends else len(said)
    pieces = pieces_of(said, tuple(stop))
    assert "".join(piece.text for piece in pieces) == said[:expected]
    assert sum(len(piece.tokens) for piece in pieces) == expected


def test_the_history_of_a_long_answer_is_that_of_a_short_one() -> None:
    prompt = np.array([1, 2])
    text = ByteTokenizer().stream()
    long = Continuation(prompt, Sampling(), text, None, None, None)
    memory = set()
    for token in range(500):
        long.take(token)
        memory.add(id(long.history.base))
    assert long.history.tolist() == [1, 2, *range(500)]
    assert prompt.tolist() == [1, 2]
    assert len(memory) < 8


@pytest.mark.parametrize("text", ["grün €uro 🙂 über", "日本語"])
def test_a_character_of_several_bytes_comes_in_one_piece(text: str) -> None:
    tokenizer, data = ByteTokenizer(), text.encode()
    pieces: list[Piece] = []
    forced = Continuation(np.array([1]), Sampling(), tokenizer.stream(), pieces.append, None, None)
    for byte in data:
        forced.say(Token(token=byte, text="", data=bytes([byte]), logprob=None))
    forced.finish("length")
    assert [piece.text for piece in pieces if piece.text] == list(text)
    assert sum(len(piece.tokens) for piece in pieces) == len(data)


def test_an_unfinished_character_at_the_end_is_shown_as_damaged() -> None:
    made = generator_of(ByteTokenizer())
    answer = made.start("x", Sampling(max_tokens=1, logit_bias={0xE2: 1000.0})).answer()
    assert answer.text == "\N{REPLACEMENT CHARACTER}"
    made.close()


def test_log_probabilities_come_with_the_tokens(characters: Generator) -> None:
    answer = characters.start("a", Sampling(max_tokens=6, top_logprobs=2, temperature=0)).answer()
    assert "".join(token.text for token in answer.tokens) == answer.text
    for token in answer.tokens:
        assert token.logprob is not None
        assert token.logprob < 0
        assert len(token.top) == 2
        assert token.top[0] == (token.text, token.data, token.logprob)


def test_unknown_symbols_are_all_named(characters: Generator) -> None:
    with pytest.raises(BadTokens, match=r"'\\u20ac', '\\U0001f642'.* knows 7"):
        characters.start("ab €🙂€")


@pytest.mark.parametrize("prompt", [[7], [-1], [10**30]])
def test_tokens_outside_the_vocabulary_are_refused(
    characters: Generator, prompt: list[int]
) -> None:
    with pytest.raises(BadTokens):
        characters.start(prompt)


def test_an_empty_prompt_begins_where_a_text_begins(characters: Generator) -> None:
    assert characters.start("", Sampling(max_tokens=3)).answer().num_prompt_tokens == 1
    assert first_token(ByteTokenizer()) == ByteTokenizer().end
    assert first_token(CharTokenizer("a\n", control_tokens=False)) == 0
    assert first_token(CharTokenizer("ab", control_tokens=False)) == 0
    assert len(encode(ByteTokenizer(), "")) == 0


def test_nothing_is_said_where_no_token_is_wanted(characters: Generator) -> None:
    answer = characters.start("ab", Sampling(max_tokens=0)).answer()
    assert (answer.text, answer.finish) == ("", "length")


def test_whoever_leaves_frees_the_place(characters: Generator) -> None:
    long = characters.start("a", Sampling(max_tokens=1_000_000))
    next(iter(long))
    long.cancel()
    assert [piece.finish for piece in long if piece.finish] == ["cancelled"]
    assert characters.start("a", Sampling(max_tokens=3)).answer().finish == "length"


def test_a_deadline_ends_a_text_and_one_that_waits(characters: Generator) -> None:
    made = generator_of(characters.tokenizer, max_streams=1)
    soon = time.monotonic() + 0.05
    under_way = [made.start("a", Sampling(max_tokens=1_000_000), deadline=soon) for _ in range(2)]
    assert [each.answer().finish for each in under_way] == ["deadline", "deadline"]
    made.close()


def test_a_full_queue_says_so_and_a_closed_generator_too(characters: Generator) -> None:
    made = generator_of(characters.tokenizer, max_streams=1, max_waiting=1)
    endless = Sampling(max_tokens=1_000_000)
    first = made.start("a", endless)
    next(iter(first))
    second = made.start("a", endless)
    with pytest.raises(Busy, match="wait already"):
        made.start("a", endless)
    made.close()
    assert first.answer().finish == second.answer().finish == "cancelled"
    with pytest.raises(Busy, match="shut down"):
        made.start("a")


def test_a_model_that_diverged_says_so_to_whoever_asks() -> None:
    made = generator_of(CharTokenizer("ab", control_tokens=False))
    with torch.no_grad():
        made.engine.model.embed.weight.fill_(float("nan"))
    broken = Generator(Engine(made.engine.model, weights="fp32"), made.tokenizer)
    with pytest.raises(LmError, match="no number"):
        broken.start("a").answer()
    broken.close()
    made.close()
