"""A file of pairs is whole, balanced, and in the form that trainers read."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.curate.pairs.conftest import pair

from twin.curate.pairs.rows import balanced, row_of, write_rows
from twin.errors import UsageError
from twin.records import Pair
from twin.store.pairs import ListedPair


def listed(**counts: int) -> list[ListedPair]:
    names = [name for name, count in counts.items() for _ in range(count)]
    return [
        ListedPair(pair_id=number, repository=name, num_tokens=1)
        for number, name in enumerate(names)
    ]


def test_answers_become_messages_and_preferences_two_of_them() -> None:
    row = row_of(pair("Do it", "done"))
    assert row["messages"] == [
        {"role": "user", "content": "Do it"},
        {"role": "assistant", "content": "done"},
    ]
    assert row["metadata"]["commit_id"] == "c" * 40
    row = row_of(pair("Do it", "good", kind="preference", stage="plan", rejected="bad"))
    assert row["prompt"] == [{"role": "user", "content": "Do it"}]
    assert row["chosen"] == [{"role": "assistant", "content": "good"}]
    assert row["rejected"] == [{"role": "assistant", "content": "bad"}]
    assert row["metadata"]["stage"] == "plan"
    assert "messages" not in row


def test_a_line_is_an_object_whatever_the_texts_hold(folder: Path) -> None:
    file = folder / "out.jsonl"
    assert write_rows(file, [pair("a\nb\u2028c", "d\0é")]) == 1
    (line,) = file.read_bytes().splitlines()
    assert json.loads(line)["messages"][1]["content"] == "d\0é"


def test_an_interrupted_file_leaves_the_one_that_was_there(folder: Path) -> None:
    file = folder / "out.jsonl"
    write_rows(file, [pair()])

    def interrupted() -> Iterator[Pair]:
        yield pair("Other")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(file, interrupted())
    assert json.loads(file.read_text())["messages"][0]["content"] == "Do it"
    assert [path.name for path in folder.iterdir()] == ["out.jsonl"]


def test_a_folder_that_is_not_there_is_said(folder: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        write_rows(folder / "a" / "out.jsonl", [])


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=8),
    st.floats(0.05, 1),
    st.integers(0, 3),
)
def test_no_repository_has_more_than_its_share(counts: list[int], share: float, seed: int) -> None:
    pairs = listed(**{f"r{number}": count for number, count in enumerate(counts)})
    assume(len(counts) * share >= 1)
    kept = balanced(pairs, max_share=share, seed=seed)
    largest = max(Counter(one.repository for one in kept).values())
    assert largest <= share * len(kept) + 1e-6
    assert kept == sorted(kept, key=lambda one: one.pair_id)
    assert kept == balanced(pairs, max_share=share, seed=seed)
    assert {one.repository for one in kept} == {one.repository for one in pairs}


def test_a_share_that_cannot_be_kept_is_said() -> None:
    with pytest.raises(UsageError, match="at least 5 repositories"):
        balanced(listed(a=3, b=3), max_share=0.2)
    assert balanced([], max_share=0.2) == []


def test_so_many_of_each_are_chosen_by_the_seed() -> None:
    pairs = listed(a=50, b=2)
    kept = balanced(pairs, per_repository=5)
    assert Counter(one.repository for one in kept) == {"a": 5, "b": 2}
    assert kept != balanced(pairs, per_repository=5, seed=1)
    assert balanced(pairs) == pairs
