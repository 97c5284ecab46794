"""A corpus is divided, numbered once and found again; what cannot be learnt from is refused."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from twin.lm.corpus import Corpus, Wanted, prepare
from twin.lm.documents import Document, JsonLines, Split, TextFiles
from twin.lm.errors import BadConfig, BadCorpus
from twin.lm.tokenizer import ByteTokenizer, CharTokenizer

BYTES = Wanted(kind="byte")


def of(tmp_path: Path, *texts: str | bytes, wanted: Wanted = BYTES, **options: object) -> Corpus:
    for number, text in enumerate(texts):
        data = text.encode() if isinstance(text, str) else text
        (tmp_path / f"{number}.txt").write_bytes(data)
    source = TextFiles(paths=[tmp_path / f"{number}.txt" for number in range(len(texts))])
    return prepare(source, wanted, tmp_path / "cache", **options)


def test_the_last_tenth_of_the_text_is_held_out(tmp_path: Path) -> None:
    text = "".join(chr(97 + number % 26) for number in range(1000))
    corpus = of(tmp_path, text, wanted=Wanted(kind="char", control_tokens=False))
    assert corpus.tokenizer.vocab_size == 26
    assert corpus.tokenizer.decode(corpus.train.tokens) == text[:900]
    assert corpus.tokenizer.decode(corpus.held_out.tokens) == text[900:]
    assert (corpus.train.num_bytes, corpus.held_out.num_bytes) == (900, 100)


def test_the_cut_falls_between_characters_and_nothing_is_lost(tmp_path: Path) -> None:
    text = "é€😀" * 33
    for share in (0.1, 0.11, 0.12, 0.13):
        corpus = of(tmp_path, text, held_out=share)
        parts = [corpus.tokenizer.decode(p.tokens) for p in (corpus.train, corpus.held_out)]
        assert "".join(parts) == text
        assert "\ufffd" not in parts[0] + parts[1]


def test_an_end_token_stands_between_documents_and_nowhere_else(tmp_path: Path) -> None:
    corpus = of(tmp_path, "ab" * 20, "cd" * 20, "ef" * 20)
    end = corpus.tokenizer.end
    assert np.flatnonzero(corpus.train.tokens == end).tolist() == [40, 81]
    assert end not in corpus.held_out.tokens
    assert corpus.train.num_documents == 3


def test_whole_documents_are_held_out_by_their_content(tmp_path: Path) -> None:
    texts = [f"document {number} " * 3 for number in range(40)]
    corpus = of(tmp_path, *texts, split="path", held_out=0.3)
    held = corpus.tokenizer.decode(corpus.held_out.tokens, control=True).split("<|end|>")
    assert 1 <= len(held) < 40
    assert set(held) < set(texts)
    assert corpus.train.num_documents + corpus.held_out.num_documents == 40
    with pytest.raises(BadCorpus, match="cannot be held out"):
        of(tmp_path, "alone " * 10, split="path")


def test_copies_of_a_document_are_on_one_side(tmp_path: Path) -> None:
    texts = [f"document {number} " * 3 for number in range(20)] * 2
    corpus = of(tmp_path, *texts, split="path", held_out=0.3)
    held, learnt = (
        corpus.tokenizer.decode(part.tokens, control=True).split("<|end|>")
        for part in (corpus.held_out, corpus.train)
    )
    assert not set(held) & set(learnt)
    assert len(held) + len(learnt) == 40


def test_what_was_learnt_is_not_held_out_at_the_end(tmp_path: Path) -> None:
    texts = [f"document {number} " * 3 for number in range(10)]
    corpus = of(tmp_path, *texts, texts[0], "another end " * 4, held_out=0.2)
    assert corpus.left_out == {"held out and also to learn from": 1}
    held = corpus.tokenizer.decode(corpus.held_out.tokens, control=True)
    assert "document 0" not in held
    assert held.endswith("another end ")
    with pytest.raises(BadCorpus, match="documents that differ"):
        of(tmp_path, "twice " * 9, "twice " * 9)


@pytest.mark.parametrize(
    ("second", "said"),
    [(["one ", "twO "], "changed"), (["one "], "shrank"), (["one ", "two ", "x"], "grew")],
)
def test_text_that_changes_between_its_two_readings_is_refused(
    second: list[str], said: str, tmp_path: Path
) -> None:
    class Changing:
        split: Split = "order"
        readings = 0

        def __init__(self) -> None:
            self.left_out: Counter[str] = Counter()

        def documents(self) -> Iterator[Document]:
            self.readings += 1
            for name, text in enumerate(["one ", "two "] if self.readings == 1 else second):
                data = text.encode() * (9 + name)
                yield Document(name=str(name), pieces=lambda data=data: iter([data]))

    with pytest.raises(BadCorpus, match=said):
        prepare(Changing(), BYTES, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_later_records_are_held_out(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    rows = [{"text": f"{number:03d}", "time": -number} for number in range(100)]
    path.write_text("\n".join(map(json.dumps, rows)))
    corpus = prepare(JsonLines(paths=[path]), BYTES, tmp_path / "cache")
    held = corpus.tokenizer.decode(corpus.held_out.tokens, control=True).split("<|end|>")
    assert held == [f"{number:03d}" for number in range(9, -1, -1)]


def test_the_same_text_is_numbered_once(tmp_path: Path) -> None:
    first = of(tmp_path, "hello world " * 20)
    told: list[str] = []
    again = of(tmp_path, "hello world " * 20, tell=lambda what, *_: told.append(what))
    assert again.key == first.key
    assert "Tokenizing" not in told
    assert of(tmp_path, "hello World " * 20).key != first.key
    assert of(tmp_path, "hello world " * 20, wanted=Wanted(kind="char")).key != first.key
    assert of(tmp_path, "hello world " * 20, held_out=0.2).key != first.key


def test_nothing_half_made_is_left_behind(tmp_path: Path) -> None:
    def interrupted(what: str, done: int, total: int) -> None:
        if what == "Tokenizing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        of(tmp_path, "hello world " * 20, tell=interrupted)
    assert not list((tmp_path / "cache").iterdir())
    assert len(of(tmp_path, "hello world " * 20).train.tokens) == 216


def test_a_file_that_was_cut_short_is_noticed(tmp_path: Path) -> None:
    corpus = of(tmp_path, "hello world " * 20)
    path = tmp_path / "cache" / corpus.key / "train.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(BadCorpus, match="is damaged"):
        of(tmp_path, "hello world " * 20)


def test_a_tokenizer_that_is_there_numbers_a_new_text(tmp_path: Path) -> None:
    known = CharTokenizer("abc ?")
    corpus = of(tmp_path, "abcd " * 20, wanted=known)
    assert corpus.tokenizer == known
    assert corpus.tokenizer.decode(corpus.train.tokens) == "abc? " * 18


@pytest.mark.parametrize("text", ["a", "aaaaaaaaaaaaaaaaaaa", "ab", "\n"])
def test_text_that_teaches_nothing_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadCorpus):
        of(tmp_path, text)


def test_bytes_that_are_no_utf8_are_kept_or_replaced(tmp_path: Path) -> None:
    data = b"caf\xe9 " * 40
    corpus = of(tmp_path, data, wanted=ByteTokenizer())
    assert bytes(corpus.train.tokens.tolist()) == data[:180]
    chars = of(tmp_path, data, wanted=Wanted(kind="char"))
    assert chars.tokenizer.decode(chars.train.tokens) == "caf\ufffd " * 36


def test_a_share_that_is_none_is_refused(tmp_path: Path) -> None:
    for share in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(BadConfig, match="is no share"):
            of(tmp_path, "hello world", held_out=share)


def test_byte_pairs_are_learnt_from_the_part_that_is_not_held_out(tmp_path: Path) -> None:
    corpus = of(tmp_path, "the cat sat " * 200, wanted=Wanted(kind="bpe", vocab_size=300))
    assert corpus.tokenizer.kind == "bpe"
    assert len(corpus.train.tokens) < corpus.train.num_bytes / 2
    assert corpus.tokenizer.decode(corpus.held_out.tokens) == ("the cat sat " * 200)[2160:]
