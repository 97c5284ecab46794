"""Surprisal per token and line, what stands out, and its picture."""

import math
from html.parser import HTMLParser

import pytest
import torch

from twin.lm.config import HybridConfig
from twin.lm.errors import BadTokens
from twin.lm.heatmap import page
from twin.lm.model import HybridLM
from twin.lm.score import (
    MAX_BYTES,
    ScoredText,
    compare_again,
    line_surprisals,
    score_text,
    surprisals,
)
from twin.lm.tokenizer import ByteTokenizer, CharTokenizer

TOKENIZER = ByteTokenizer()
MODEL = HybridLM(
    HybridConfig(vocab_size=TOKENIZER.vocab_size, d_model=16, n_layers=1, head_dim=16,
                 mamba_head_dim=16, d_state=8, decay_rank=4, ffn_mult=1.0),
    kernels="chunked", seed=0,
)  # fmt: skip


def score(data: bytes, added: set[int] | None = None, name: str = "file") -> ScoredText:
    return score_text(MODEL, TOKENIZER, data, name, added or set())


def test_a_model_that_says_no_number_scores_nothing() -> None:
    broken = HybridLM(MODEL.config, kernels="chunked", seed=0)
    with torch.no_grad():
        broken.norm.weight.fill_(math.nan)
    with pytest.raises(BadTokens, match="no number"):
        score_text(broken, TOKENIZER, b"a text\n")


def usual_and_odd() -> ScoredText:
    """A text whose lines 31 and 32 stand out, to a model that was shown the others."""
    return judged([2.0] * 15 + [2.2] * 15 + [7.0, 2.1], added={31, 32})


def judged(rates: list[float], added: set[int]) -> ScoredText:
    """A scored text with these bits per byte, as the arithmetic sees it."""
    import dataclasses

    text = score(b"x" * 39 + b"\n" + (b"y" * 39 + b"\n") * (len(rates) - 1), added)
    lines = tuple(
        dataclasses.replace(line, bits=rate * 40, bits_per_byte=rate)
        for line, rate in zip(text.lines, rates, strict=True)
    )
    return compare_again(dataclasses.replace(text, lines=lines), [])


def test_the_bits_are_those_of_the_model_token_by_token() -> None:
    data = b"hello\nworld"
    tokens = torch.tensor(list(data))
    with torch.no_grad():
        fed = torch.cat([torch.tensor([TOKENIZER.end]), tokens[:-1]])
        logits, _ = MODEL(fed[None])
    nats = -torch.log_softmax(logits[0], -1)[torch.arange(len(data)), tokens]
    found = score(data)
    assert found.bits == pytest.approx(float(nats.sum()) / math.log(2), rel=1e-5)
    assert [line.text for line in found.lines] == ["hello", "world"]
    assert found.lines[0].bits == pytest.approx(float(nats[:6].sum()) / math.log(2), rel=1e-5)
    assert sum(line.bits for line in found.lines) == pytest.approx(found.bits)
    assert (found.num_tokens, found.num_bytes) == (11, 11)


def test_a_long_text_is_scored_in_parts_with_the_state_carried() -> None:
    import numpy as np

    tokens = np.random.default_rng(0).integers(0, 256, 2500)
    whole = surprisals(MODEL, tokens, 0)
    with torch.no_grad():
        fed = torch.tensor([[0, *tokens[:-1]]])
        logits, _ = MODEL(fed)
    nats = -torch.log_softmax(logits[0], -1)[torch.arange(2500), torch.tensor(tokens)]
    np.testing.assert_allclose(whole, nats.numpy() / math.log(2), rtol=1e-3)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", [""]),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        ("gr\u00fcn \u20ac".encode(), ["gr\u00fcn \u20ac"]),
        (b"bad \xff\xc3 bytes\n", ["bad \ufffd\ufffd bytes"]),
        (b"cut \xe2\x82", ["cut \ufffd"]),
    ],
)
def test_lines_are_those_of_the_file(data: bytes, lines: list[str]) -> None:
    found = score(data)
    assert [line.text for line in found.lines] == lines
    for line in found.lines:
        assert "".join(token.text for token in line.tokens).rstrip("\n") == line.text


@pytest.mark.parametrize("data", [b"\0" * 10, b"text\0", b"x" * (MAX_BYTES + 1)])
def test_binary_and_huge_files_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(BadTokens, match="the-name"):
        score(data, name="the-name")


def test_symbols_that_a_character_model_lacks_are_counted_and_replaced() -> None:
    tokenizer = CharTokenizer("ab? \n")
    model = HybridLM(
        HybridConfig(vocab_size=tokenizer.vocab_size, d_model=16, n_layers=1, head_dim=16,
                     mamba_head_dim=16, d_state=8), kernels="chunked", seed=0,
    )  # fmt: skip
    found = score_text(model, tokenizer, "a\u20acb \U0001f642\n".encode())
    assert found.num_unknown == 2
    assert found.lines[0].text == "a?b ?"


def test_a_new_line_stands_out_against_those_that_were_there() -> None:
    found = usual_and_odd()
    odd, plain = found.lines[30], found.lines[31]
    assert odd.is_unusual
    assert odd.percentile == 1.0
    assert not plain.is_unusual
    assert [line.number for line in found.worst(1, added_only=True)] == [31]
    assert all(not line.is_added for line in found.lines[:30])
    assert len(line_surprisals(found)) == 30


def test_with_too_little_to_compare_nothing_is_called_unusual() -> None:
    found = judged([1.0] * 10 + [9.0], added={11})
    assert [line.z for line in found.lines] == [None] * 11
    assert not found.lines[10].is_unusual
    assert compare_again(found, [1.0, 1.1] * 10).lines[10].is_unusual


def test_blank_lines_are_no_measure_and_are_not_judged() -> None:
    found = score(b"line of text\n\n" * 30)
    assert all((line.z is None) == (not line.text) for line in found.lines)
    assert len(line_surprisals(found)) == 30


class Reader(HTMLParser):
    """What a browser would see: tags and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert name not in ("src", "href", "onclick", "onerror"), (name, value)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_the_text_and_takes_nothing_of_it_as_markup() -> None:
    hostile = '<script>alert(1)</script> "quoted" & \u202e\x1b[2J </style>\n'
    text = score(hostile.encode() * 25, name="<img src=x onerror=y>\udcff.py")
    reader = Reader()
    written = page([text], title='</title><script>"')
    reader.feed(written)
    assert "script" not in reader.tags
    assert "img" not in reader.tags
    assert "<script>alert(1)</script>" in reader.text
    assert "<img src=x onerror=y>" in reader.text
    assert "\u202e" not in written
    assert "\x1b" not in written
    assert "http" not in written
    assert "prefers-color-scheme: dark" in written


def test_a_difference_shows_what_is_new_and_its_surroundings() -> None:
    written = page([usual_and_odd()], title="t", is_difference=True)
    assert written.count("<tr") == 2 + 3 + 1, "two new, three before, one gap"
    assert 'class="new odd"' in written
    assert page([], title="none").count("Nothing to show") == 1
