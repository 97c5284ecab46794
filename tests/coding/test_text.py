"""Code and prose become the same terms where a person means the same thing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.coding.text import (
    MAX_PART,
    MAX_WORD,
    clean_message,
    count_terms,
    hash_of,
    is_compound,
    terms_of,
    whole,
)


def stems(*words: str) -> set[int]:
    return {hash_of(word) for word in words}


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("get_http_name", ("get", "http", "name")),
        ("getHTTPName", ("get", "http", "name")),
        ("GetHttpName", ("get", "http", "name")),
        ("HTTPServer", ("http", "server")),
        ("parseURL", ("pars", "url")),
        ("utf8Decoder", ("utf", "8", "decod")),
        ("__init__", ("init",)),
        ("X", ("x",)),
        ("MAX_RETRIES", ("max", "retri")),
        ("2024", ("2024",)),
    ],
)
def test_an_identifier_is_split_into_its_stemmed_parts(word: str, parts: tuple[str, ...]) -> None:
    assert set(terms_of(word)) - {whole(word)} == stems(*parts)


def test_a_word_of_several_parts_also_counts_as_one_whole() -> None:
    assert whole("writeLocks") in terms_of("writeLocks")
    assert whole("locks") not in terms_of("locks")


def test_a_compound_is_the_same_however_it_is_written() -> None:
    assert (
        whole("write_locks") == whole("WriteLocks") == whole("writeLocks") == whole("WRITE_LOCKS")
    )
    assert set(terms_of("write_locks")) == set(terms_of("WriteLocks"))
    assert whole("write_locks") != whole("write_lock")


def test_a_part_and_a_whole_of_the_same_letters_are_different_terms() -> None:
    assert whole("lock") != hash_of("lock")


@pytest.mark.parametrize("word", ["a_b", "aB", "write_locks", "getName", "_a_b"])
def test_inner_capitals_and_underscores_make_a_compound(word: str) -> None:
    assert is_compound(word)


@pytest.mark.parametrize("word", ["word", "Word", "HTTP", "_private", "trailing_", "__", "x1", ""])
def test_an_ordinary_word_is_no_compound(word: str) -> None:
    assert not is_compound(word)


def test_words_of_other_alphabets_are_found_by_the_same_words() -> None:
    for word in ("größe", "настройка", "設定", "naïve", "ελληνικά"):
        assert count_terms(word), word
        assert count_terms(f"x = {word};").keys() >= count_terms(word).keys()
    assert count_terms("Größe") == count_terms("größe")
    assert count_terms("настройка").keys().isdisjoint(count_terms("設定"))


def test_terms_are_counted_over_the_whole_text() -> None:
    counts = count_terms("lock the locks, LOCK!")
    assert counts[hash_of("lock")] == 3
    assert counts[hash_of("the")] == 1
    assert count_terms("  \n\t -- !! ") == {}


def test_encoded_data_is_not_counted_but_what_stands_beside_it_is() -> None:
    assert terms_of("x" * (MAX_PART + 1)) == ()
    data = "aB3" * MAX_WORD
    assert whole(data) not in terms_of(data)
    assert hash_of("lock") in count_terms(f"lock {'Q' * 2_000_000} key")


def test_bytes_that_are_no_utf8_are_passed_over() -> None:
    broken = b"lo\xffck caf\xe9_bar".decode("utf-8", "surrogateescape")
    assert count_terms(broken).keys() >= stems("lo", "ck", "caf", "bar")
    assert terms_of(b"caf\xe9_bar".decode("utf-8", "surrogateescape"))  # a file's name, undivided


@given(st.text(st.characters(codec=None), max_size=60))
def test_any_text_gives_32_bit_terms_with_positive_counts(text: str) -> None:
    counts = count_terms(text)
    assert all(0 <= term < 2**32 and count > 0 for term, count in counts.items())


@given(st.text(max_size=40), st.text(max_size=40))
def test_two_texts_side_by_side_have_the_terms_of_both(one: str, other: str) -> None:
    together, apart = count_terms(f"{one} {other}"), [count_terms(one), count_terms(other)]
    assert together == {
        term: sum(counts.get(term, 0) for counts in apart) for term in {**apart[0], **apart[1]}
    }


@pytest.mark.parametrize(
    ("message", "cleaned"),
    [
        ("Fix the lock (#123)", "Fix the lock"),
        ("Fix gh-12: the lock", "Fix  : the lock"),
        ("See https://example.org/a?b=c for why", "See   for why"),
        ("Revert 0123abcdef of last week", "Revert   of last week"),
        ("Add locks\n\nSigned-off-by: Ada <ada@example.org>", "Add locks"),
        ("Add locks\n\nCo-authored-by: B <b@c>\nWhy: speed", "Add locks\n\n\nWhy: speed"),
        ("#1", ""),
        ("", ""),
    ],
)
def test_a_message_loses_what_points_elsewhere(message: str, cleaned: str) -> None:
    assert clean_message(message) == cleaned


def test_ordinary_words_and_short_numbers_stay_in_a_message() -> None:
    message = "Decade-old facade: accept 1234 and 0x12 in `defaced`"
    assert clean_message("accept 1234 and 0x12") == "accept 1234 and 0x12"
    assert "facade" in clean_message(message)
