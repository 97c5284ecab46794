"""The score of a message is near 0 where it says nothing and high where it names its place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.observe.message import _MATCHERS, count_words, kinds_of, message_score, starts_with_verb


@pytest.mark.parametrize(
    "subject",
    ["", ".", "fix", "wip", "Fix typo", "Fix typo in comments of the `parser.loader` module",
     "Bump attrs from 19.1 to 19.2", "v1.2.3", 'Revert "Use WeakKeyDictionary for WRITE_LOCKS"',
     "more fixes", "\u2728", "Release 1.0"],
)  # fmt: skip
def test_messages_that_name_no_place_score_low(subject: str) -> None:
    assert message_score(subject).value < 0.4


@pytest.mark.parametrize(
    "subject",
    [
        "Use WeakKeyDictionary for WRITE_LOCKS",
        "Add snake_case shims for isEnabledFor",
        "fix(parser): return `None` for empty documents instead of raising",
        "FEATURE : Allow empty sequences in `MapPattern` validators",
        "Make the retry delay configurable per host and per route",
    ],
)
def test_messages_that_name_something_score_high(subject: str) -> None:
    assert message_score(subject).value >= 0.5


def test_a_body_and_a_name_only_ever_help() -> None:
    plain = message_score("Handle empty documents in the reader")
    assert (
        message_score("Handle empty documents in the reader", "It crashed. " * 5).value
        > plain.value
    )
    assert message_score("Handle empty documents in `read_all`").value > plain.value


def test_the_reasons_add_up_to_the_score() -> None:
    score = message_score(
        "Return `None` for empty documents", "They used to crash the reader badly."
    )
    parts = [float(reason.split()[0]) for reason in score.reasons if reason.startswith("+")]
    assert sum(parts) == pytest.approx(score.value, abs=0.03)
    assert any("starts with a verb" in reason for reason in score.reasons)
    assert any("typo names no place" in r for r in message_score("Fix typo in `a_b` c d e").reasons)


@pytest.mark.parametrize(
    ("subject", "verb"),
    [
        ("Fixes the parser", True),
        ("Removed dead code", True),
        ("Dropping 3.7", True),
        ("Simplified it", True),
        ("chore(deps): pinned numpy", True),
        ("[core] stop early", True),
        ("BUG : handled empty maps", True),
        ("PEP 484 x 3.", False),
        ("Parser: the error is lost", False),
        ("The parser", False),
        ("", False),
    ],
)
def test_verbs_are_known_in_every_form_and_behind_any_prefix(subject: str, verb: bool) -> None:
    assert starts_with_verb(subject) is verb


def test_words_are_counted_as_people_do() -> None:
    assert count_words("PEP 484 x 3.") == 4
    assert count_words("- add -- it !") == 2
    assert count_words("") == 0


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_has_a_score_between_0_and_1(subject: str, body: str) -> None:
    assert 0 <= message_score(subject, body).value <= 1
    assert all(name and reason for name, reason in kinds_of(subject, body))


@given(st.data())
def test_the_letters_looked_for_first_never_hide_a_match(data: st.DataObject) -> None:
    name, letters, pattern = data.draw(st.sampled_from(_MATCHERS))
    subject = data.draw(st.from_regex(pattern)).lower()
    if pattern.search(subject):
        assert any(some in subject for some in letters), name


@pytest.mark.parametrize(
    "piece", ["format ", "a", "a.", "_", "bump ", "(", "[x]", "a:", "`", "update 1 "]
)
def test_a_message_made_to_be_slow_is_not(piece: str) -> None:
    message_score(piece * 100_000, piece * 100_000)
