"""Blocks made of two texts turn the one into the other, exactly, and say where they cannot."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from twin.coding import edits
from twin.coding.edits import Block, apply, as_text, blocks_of, read_blocks, text_of
from twin.errors import BadEdits

LINES = st.lists(
    st.sampled_from(["", "a", "a = 1", "    a = 1", "b", "=======", "<<<<<<< SEARCH", "\r", "ä"]),
    max_size=12,
)
TEXTS = st.one_of(LINES.map("\n".join), st.text(max_size=60))


@given(TEXTS, TEXTS)
@example("a\na\na\na\n", "a\na\nb\na\na\n")
@example("", "a\n")
@example("a\n", "")
@example("a", "a\n")
@example("x\n\n\n\ny", "x\n\n\n\n\ny")
@example("=======\n", ">>>>>>> REPLACE\n" * 3)
def test_blocks_make_exactly_the_other_text(before: str, after: str) -> None:
    blocks = blocks_of(before, after)
    assert apply(before, blocks) == after
    assert read_blocks(as_text(blocks)) == blocks
    for block in blocks:
        first = before.find(block.search)
        assert before.find(block.search, first + 1) < 0 or not before
        assert block.search != block.replace


@given(LINES, LINES, LINES)
def test_what_two_texts_share_stays_out_of_the_blocks(
    head: list[str], middle: list[str], tail: list[str]
) -> None:
    first = [f"first {number}" for number in range(30)]
    before = "\n".join([*first, *head, "the one line", *tail])
    after = "\n".join([*first, *head, "another line", *middle, *tail])
    blocks = blocks_of(before, after)
    assert apply(before, blocks) == after
    assert "first 20" not in as_text(blocks)


def test_a_block_takes_only_the_lines_that_make_it_unique() -> None:
    before = "def a():\n    return 1\n\n\ndef b():\n    return 1\n"
    (block,) = blocks_of(before, before[:-2] + "2\n")
    assert block == Block(search="def b():\n    return 1", replace="def b():\n    return 2")


def test_a_text_that_repeats_itself_without_end_is_taken_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(edits, "MAX_PAIRINGS", 10)
    before, after = "a\n" * 100 + "x", "b\n" + "a\n" * 90 + "y"
    assert len(blocks_of(before, after)) == 1
    assert apply(before, blocks_of(before, after)) == after


@pytest.mark.parametrize(
    ("text", "blocks", "said"),
    [
        ("a\n", [("b", "c")], "not in the file"),
        ("a\na\n", [("a", "c")], "more than once"),
        ("aaa", [("aa", "c")], "more than once"),
        ("a\n", [("", "c")], "searches for nothing"),
        ("abc", [("ab", "x"), ("bc", "y")], "the same lines"),
        ("", [("", "x"), ("", "y")], "the same lines"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(
    text: str, blocks: list[tuple[str, str]], said: str
) -> None:
    with pytest.raises(BadEdits, match=said):
        apply(text, [Block(search=search, replace=replace) for search, replace in blocks])


def test_the_order_of_blocks_does_not_matter() -> None:
    blocks = blocks_of("a\nb\nc\nd\ne\n", "A\nb\nc\nd\nE\n")
    assert apply("a\nb\nc\nd\ne\n", blocks[::-1]) == "A\nb\nc\nd\nE\n"


def test_blocks_are_found_among_words() -> None:
    answer = "Here:\n```\n<<<<<<< SEARCH\na\n=======\nb\n>>>>>>> REPLACE\n```\nDone."
    assert read_blocks(answer) == (Block(search="a", replace="b"),)
    assert read_blocks("Nothing to do.") == ()


@pytest.mark.parametrize(
    "answer",
    ["<<<<<<< SEARCH\na", "<<<<<<< SEARCH\na\n=======\nb", "<<<<<<<< SEARCH\n=======\n>>>>>>> R"],
)
def test_a_block_that_breaks_off_is_refused(answer: str) -> None:
    with pytest.raises(BadEdits, match="Block 1 of the edits breaks off"):
        read_blocks(answer)


def test_an_answer_without_end_is_refused() -> None:
    with pytest.raises(BadEdits, match="longer than"):
        read_blocks("x" * (edits.MAX_ANSWER + 1))


def test_only_text_of_a_sane_size_is_edited() -> None:
    assert text_of(None) == ""
    assert text_of("ä\r\n".encode()) == "ä\r\n"
    assert text_of(b"\xff") is None
    assert text_of(b"a\0b") is None
    assert text_of(b"a" * (edits.MAX_BYTES + 1)) is None
