"""States by prefix and by conversation: what fits is found, what does not is never handed out."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from twin.lm.cache import ConversationStore, PrefixCache
from twin.lm.errors import BadState


class Kept:
    """A state that is a number."""

    def __init__(self, value: int, num_bytes: int = 10) -> None:
        self.value = value
        self.num_bytes = num_bytes

    def copy(self) -> "Kept":
        return Kept(self.value, self.num_bytes)


def test_the_longest_kept_prefix_is_found() -> None:
    cache: PrefixCache[Kept] = PrefixCache(1000)
    for length in (2, 4, 7):
        cache.put(range(length), Kept(length))
    found = cache.longest(range(6))
    assert found is not None
    assert (found[0], found[1].value) == (4, 4)
    assert cache.covered(range(100)) == 7
    assert cache.longest([9, 9, 9]) is None
    assert (cache.hits, cache.misses) == (1, 1)


def test_what_is_handed_out_and_what_is_kept_share_nothing() -> None:
    cache: PrefixCache[Kept] = PrefixCache(1000)
    mine = Kept(1)
    cache.put([1], mine)
    mine.value = 2
    first = cache.longest([1])
    assert first is not None
    assert first[1].value == 1
    first[1].value = 3
    second = cache.longest([1])
    assert second is not None
    assert second[1].value == 1


def test_the_least_recently_used_goes_when_the_cap_is_reached() -> None:
    cache: PrefixCache[Kept] = PrefixCache(30)
    for token in (1, 2, 3):
        cache.put([token], Kept(token))
    assert cache.longest([1]) is not None
    cache.put([4], Kept(4))
    assert cache.longest([2]) is None
    assert all(cache.longest([token]) is not None for token in (1, 3, 4))
    assert cache.num_bytes == 30
    cache.put([5], Kept(5, num_bytes=31))
    assert cache.longest([5]) is None
    assert len(cache) == 3


def test_two_texts_under_one_key_are_not_confused() -> None:
    cache: PrefixCache[Kept] = PrefixCache(1000, key=lambda digest: 0)
    cache.put([1, 2], Kept(1))
    assert cache.longest([3, 4]) is None
    cache.put([3, 4], Kept(2))
    found = cache.longest([3, 4, 5])
    assert found is not None
    assert found[1].value == 2
    assert cache.longest([1, 2]) is None
    assert (len(cache), cache.num_bytes) == (1, 10)


@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), max_size=12),
    st.lists(st.integers(0, 1), max_size=8),
)
def test_the_answer_is_that_of_a_plain_search(kept: list[list[int]], asked: list[int]) -> None:
    cache: PrefixCache[Kept] = PrefixCache(10_000)
    for number, tokens in enumerate(kept):
        cache.put(tokens, Kept(number))
    lengths = [len(tokens) for tokens in kept if asked[: len(tokens)] == tokens]
    found = cache.longest(asked)
    assert (found[0] if found else 0) == max(lengths, default=0)
    if found:
        assert kept[found[1].value] == asked[: found[0]]


STATE = (torch.arange(6.0).view(1, 2, 3), torch.ones(1, 4))


def test_a_conversation_outlives_its_process(tmp_path: Path) -> None:
    ConversationStore(tmp_path / "kept", "model").save("../../etc\0", [1, 2, 3], STATE)
    store = ConversationStore(tmp_path / "kept", "model")
    found = store.longest("../../etc\0", [1, 2, 3, 4])
    assert found is not None
    assert found[0] == 3
    assert all(torch.equal(a, b) for a, b in zip(found[1], STATE, strict=True))
    assert [path.parent for path in tmp_path.rglob("*.*")] == [tmp_path / "kept"]
    assert store.longest("../../etc\0", [1, 9, 3, 4]) is None
    assert store.longest("../../etc\0", [1, 2]) is None
    assert store.longest("other", [1, 2, 3]) is None


def test_another_models_state_is_refused(tmp_path: Path) -> None:
    ConversationStore(tmp_path, "one").save("c", [1], STATE)
    other = ConversationStore(tmp_path, "two")
    (written,) = tmp_path.iterdir()
    written.rename(other._path("c"))
    with pytest.raises(BadState, match="another model"):
        other.load("c")
    assert other.longest("c", [1]) is None


def test_two_models_keep_their_states_of_one_conversation(tmp_path: Path) -> None:
    one, two = ConversationStore(tmp_path, "one"), ConversationStore(tmp_path, "two")
    one.save("c", [1], STATE)
    two.save("c", [1, 2], STATE)
    for store, length in ((one, 1), (two, 2)):
        found = store.longest("c", [1, 2, 3])
        assert found is not None
        assert found[0] == length


def test_what_cannot_be_written_is_an_error_of_the_system_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("twin.lm.cache.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        ConversationStore(tmp_path, "m").save("c", [1], STATE)
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_time_cannot_be_set_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    store = ConversationStore(tmp_path, "m")
    store.save("c", [1], STATE)
    monkeypatch.setattr("twin.lm.cache.os.utime", refused)
    assert store.load("c") is not None


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, b"cut"])
def test_a_damaged_file_is_refused_and_counts_as_nothing(tmp_path: Path, damage: bytes) -> None:
    store = ConversationStore(tmp_path, "m")
    store.save("c", [1], STATE)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:50] if damage == b"cut" else damage)
    with pytest.raises(BadState, match="cannot be read"):
        store.load("c")
    assert store.longest("c", [1]) is None


def test_a_conversation_that_went_on_replaces_itself_and_the_oldest_go(tmp_path: Path) -> None:
    store = ConversationStore(tmp_path, "m", max_bytes=900)
    store.save("a", [1], STATE)
    store.save("a", [1, 2], STATE)
    assert len(list(tmp_path.iterdir())) == 1
    for number, name in enumerate("bcdefgh"):
        store.save(name, np.arange(3), STATE)
        for path in tmp_path.iterdir():
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**9))
        assert store.load(name) is not None, number
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 900
    assert store.load("a") is None
    store.delete("h")
    store.delete("h")
    assert store.load("h") is None
