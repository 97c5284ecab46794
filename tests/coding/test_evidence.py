"""What is about a request and what is not, on one scale for all requests."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.coding.evidence import FLOOR, MAX_WORDS, Words, evidence, rarity, relevance
from twin.coding.lexical import Bag, Postings, View
from twin.coding.text import count_terms

PIECES = [
    "The retry delay of the upload client doubles up to a minute.",
    "Users log in with a password and get a session token.",
    "hello world, prints hello to the screen",
    "The parser reads tokens and builds a syntax tree.",
    "Reports are rendered as HTML tables and sent by mail.",
    "The cache forgets what was not asked for in an hour.",
]


def relevances(request: str, pieces: list[str] = PIECES) -> list[float]:
    words = Words.of(request)
    postings = Postings([Bag.of(count_terms(piece)) for piece in pieces])
    hits = postings.match(words.terms, View(np.arange(len(pieces)), len(pieces)))
    return relevance(evidence(hits, rarity(hits))).tolist()


@pytest.mark.parametrize(
    ("request_", "place"),
    [
        ("make the retry delay configurable", 0),
        ("Why is the session token empty after the password changed?", 1),
        ("parser: keep comments in the syntax tree", 3),
        ("HTML tables in mail are cut off", 4),
    ],
)
def test_the_piece_that_a_task_is_about_is_over_the_floor(request_: str, place: int) -> None:
    found = relevances(request_)
    assert max(found) == found[place] >= FLOOR


@pytest.mark.parametrize(
    "request_",
    [
        "hello",
        "Hello there, how are you?",
        "thanks, that's great!",
        "Write a haiku about autumn",
        "What is the capital of France?",
        "How do I sort a list in Python?",
        "continue",
        "Was ist die Hauptstadt von Frankreich?",
        "",
        "!!! ??? ...",
    ],
)
def test_small_talk_is_about_nothing_even_where_a_file_says_hello(request_: str) -> None:
    assert max(relevances(request_), default=0.0) < FLOOR


def test_one_rare_word_alone_is_never_enough() -> None:
    assert max(relevances("parser")) < FLOOR


def test_a_word_that_every_piece_holds_counts_for_nearly_nothing() -> None:
    pieces = [f"gateway number {number} serves" for number in range(50)]
    assert max(relevances("gateway serves number", pieces)) < 0.2


def test_words_that_no_piece_holds_speak_against_all_of_them() -> None:
    alone = max(relevances("retry delay"))
    among_others = max(relevances("retry delay giraffe volcano trumpet saxophone glacier"))
    assert among_others < alone


def test_only_the_beginning_of_an_endless_request_is_read() -> None:
    endless = " ".join(f"w{number}x" for number in range(50_000))
    assert len(Words.of(endless)) < 5 * MAX_WORDS


@given(st.text(max_size=200))
def test_relevance_stays_within_its_bounds(request_: str) -> None:
    assert all(0.0 <= value < 1.0 for value in relevances(request_))
