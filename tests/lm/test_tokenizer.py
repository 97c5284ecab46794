"""Text to numbers and back is exact; control tokens are one number, and plain text is none."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.lm.errors import BadCheckpoint, BadConfig, BadTokens
from twin.lm.tokenizer import (
    CONTROL,
    END,
    PRINTABLE,
    BpeTokenizer,
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    check_same,
    load_tokenizer,
    tokenizer_from_dict,
)

VERSE = "The quick brown fox jumps over the lazy dog; the dog sleeps. Größe: 3 €, 😀\r\n\x00\t  x"
BPE = BpeTokenizer.train([VERSE * 20], vocab_size=330)
ALL: list[Tokenizer] = [BPE, ByteTokenizer(), CharTokenizer(VERSE)]
ids = [tokenizer.kind for tokenizer in ALL]


@pytest.mark.parametrize("tokenizer", ALL, ids=ids)
def test_a_text_comes_back_as_it_was(tokenizer: Tokenizer) -> None:
    for text in (VERSE, "", " ", "\r\n", "😀"):
        assert tokenizer.decode(tokenizer.encode(text)) == text or tokenizer.kind == "char"
    assert tokenizer.decode(tokenizer.encode(VERSE)) == VERSE


@given(st.text())
def test_bytes_and_byte_pairs_bring_back_any_text(text: str) -> None:
    for tokenizer in (BPE, ByteTokenizer()):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        stream = tokenizer.stream()
        pieces = [stream.push(int(token)) for token in tokenizer.encode(text)]
        assert "".join(pieces) + stream.finish() == text
        assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces) or "\ufffd" in text


@given(st.binary())
def test_bytes_of_any_file_have_numbers(data: bytes) -> None:
    assert bytes(ByteTokenizer().encode_bytes(data).tolist()) == data
    for tokenizer in (BPE, CharTokenizer(VERSE)):
        numbers = tokenizer.encode_bytes(data)
        assert ((numbers >= 0) & (numbers < tokenizer.vocab_size)).all()


@given(st.text(alphabet=st.characters(), max_size=30))
def test_lone_surrogates_do_no_harm(text: str) -> None:
    odd = text + "\ud800"
    for tokenizer in (BPE, ByteTokenizer()):
        assert tokenizer.decode(tokenizer.encode(odd)).startswith(text)


@pytest.mark.parametrize("tokenizer", ALL, ids=ids)
def test_a_control_token_is_one_number_where_it_is_asked_for(tokenizer: Tokenizer) -> None:
    for name in CONTROL:
        numbers = tokenizer.encode(f"x{name}fox", control=True)
        assert numbers[1] == tokenizer.control[name]
        assert tokenizer.decode(numbers, control=True) == f"x{name}fox"
        assert tokenizer.decode(numbers) == "xfox"


@pytest.mark.parametrize("tokenizer", [BPE, ByteTokenizer(), CharTokenizer(PRINTABLE)], ids=ids)
def test_plain_text_never_becomes_a_control_token(tokenizer: Tokenizer) -> None:
    numbers = tokenizer.encode(END)
    assert tokenizer.end not in numbers
    assert tokenizer.decode(numbers) == END


def test_the_classic_vocabularies_have_their_sizes() -> None:
    assert CharTokenizer("hello world", control_tokens=False).vocab_size == len(set("hello world"))
    assert CharTokenizer(PRINTABLE, control_tokens=False).vocab_size == 97
    assert ByteTokenizer(control_tokens=False).vocab_size == 256
    assert ByteTokenizer().vocab_size == 256 + len(CONTROL)
    assert CharTokenizer("ab", control_tokens=False).end is None


def test_an_unknown_symbol_is_named_with_its_place() -> None:
    tokenizer = CharTokenizer("abc ?")
    with pytest.raises(BadTokens, match=r"'\\xe9' \(number 2 of the text\)"):
        tokenizer.encode("abé")
    assert tokenizer.replacement == "?"
    assert tokenizer.decode(tokenizer.encode_replacing("abé\U0010ffff")) == "ab??"


def test_a_number_outside_the_vocabulary_is_refused() -> None:
    for number in (-1, 261, 10**9):
        with pytest.raises(BadTokens, match="is no token"):
            ByteTokenizer().decode([number])


def test_an_unfinished_character_is_held_back_until_it_is_whole_or_given_up() -> None:
    tokenizer = ByteTokenizer()
    stream = tokenizer.stream()
    euro = "€".encode()
    assert [stream.push(byte) for byte in euro] == ["", "", "€"]
    assert [stream.push(euro[0]), stream.push(tokenizer.control[END])] == ["", "\ufffd"]
    assert stream.push(euro[0]) == ""
    assert stream.finish() == "\ufffd"
    assert stream.push(ord("x")) == "x"


@pytest.mark.parametrize("tokenizer", ALL, ids=ids)
def test_a_saved_tokenizer_is_equal_to_itself(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json")
    assert again == tokenizer
    assert (again.encode(VERSE) == tokenizer.encode(VERSE)).all()
    check_same(again, tokenizer)


def test_the_wrong_tokenizer_is_told_from_the_right_one() -> None:
    with pytest.raises(BadCheckpoint, match="tokenizer `char`, not `byte`"):
        check_same(ByteTokenizer(), CharTokenizer("ab"))
    with pytest.raises(BadCheckpoint, match="another `char` vocabulary"):
        check_same(CharTokenizer("ac"), CharTokenizer("ab"))


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "null", "{", '{"kind": "byte"}', '{"kind": "word", "format": 1, "control": []}',
        '{"kind": "char", "format": 1, "control": []}',
        '{"kind": "char", "format": 1, "control": [], "symbols": ""}',
        '{"kind": "char", "format": 1, "control": [], "symbols": 3}',
        '{"kind": "bpe", "format": 1, "control": [], "bpe": {"version": 9}}',
        '{"kind": "byte", "format": 1, "control": ["<|x|>"]}',
        '{"kind": "byte", "format": 2, "control": []}',
    ],
)  # fmt: skip
def test_a_damaged_tokenizer_file_is_refused_with_a_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadCheckpoint):
        load_tokenizer(path)
    with pytest.raises(BadCheckpoint):
        load_tokenizer(tmp_path / "nowhere.json")


def test_byte_pairs_take_less_than_asked_where_the_text_has_no_more() -> None:
    assert BpeTokenizer.train(["aaaa"], vocab_size=24_000).vocab_size < 300
    with pytest.raises(BadConfig, match="261 or more"):
        BpeTokenizer.train(["aaaa"], vocab_size=100)


def test_the_file_is_plain_ascii_json() -> None:
    for tokenizer in ALL:
        assert tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict()))) == tokenizer
