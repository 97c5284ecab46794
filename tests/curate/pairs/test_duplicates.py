"""The earliest of what is the same stays, and of what is nearly the same."""

import pytest
from tests.curate.pairs.conftest import pair

from twin.curate.pairs.duplicates import duplicates, signature
from twin.records import Pair
from twin.store.pairs import Fingerprint

LONG = (
    "def keep(value):\n    if value is None:\n        return 0\n    return round(value * 100)\n" * 2
)


def marks(*pairs: Pair, **known: str) -> dict[int, str | None]:
    return dict(
        duplicates(
            Fingerprint(
                pair_id=number,
                group=int(one.origin.commit_id, 16),
                kind=one.kind,
                content_hash=one.content_hash,
                signature=signature(one),
                dropped_by=known.get(f"n{number}"),
            )
            for number, one in enumerate(pairs)
        )
    )


def test_the_same_again_is_dropped() -> None:
    assert marks(pair(commit_id="1"), pair(commit_id="2"), pair("Else")) == {1: "duplicate"}


def test_nearly_the_same_of_another_commit_is_dropped_whatever_was_shown() -> None:
    first = pair("Keep cents", LONG, prompt="x", commit_id="1")
    backport = pair("Keep Cents.", LONG + "\n", prompt="y", commit_id="2")
    assert marks(first, backport) == {1: "near_duplicate"}
    assert marks(first, pair("Keep cents", LONG, prompt="y", commit_id="1")) == {}
    assert marks(first, pair("Keep cents", LONG, prompt="y", commit_id="2", kind="scope")) == {}


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("Add the colors property to the renderer", LONG),
        ("Add the native property to the renderer", LONG.replace("round", "int")),
        ("Add the native property to the renderer", "something else"),
    ],
)
def test_another_task_or_another_answer_is_no_duplicate(task: str, answer: str) -> None:
    first = pair("Add the native property to the renderer", LONG, commit_id="1")
    assert not marks(first, pair(task, answer, commit_id="2"))


def test_what_is_no_duplicate_any_more_comes_back() -> None:
    assert marks(pair("One"), pair("Two"), n1="near_duplicate") == {1: None}
    assert marks(pair("One"), pair("One"), n1="duplicate") == {}


def test_the_share_of_common_runs_is_estimated_well() -> None:
    words = [f"w{number}" for number in range(4000)]
    same, other = " ".join(words), " ".join(words[:3600] + [f"x{w}" for w in words[3600:]])
    one, two = signature(pair(same)), signature(pair(other))
    equal = sum(one[at : at + 4] == two[at : at + 4] for at in range(0, 256, 4)) / 64
    assert abs(equal - 3600 / 4400) < 0.15


def test_no_words_at_all_are_no_trouble() -> None:
    assert len(signature(pair("", ""))) == 512
    assert marks(pair("", "", commit_id="1"), pair("", "", commit_id="2")) == {1: "duplicate"}
