"""A file's words are counted once per content, and nothing in a file can stop the counting."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.coding.digest import (
    DIGEST_VERSION,
    WINDOW_LINES,
    Digest,
    Packed,
    digest_of,
    digests,
)
from twin.coding.git import GitRepository
from twin.coding.index import BATCH_BYTES, Contents
from twin.coding.text import count_terms, hash_of, whole
from twin.store.database import open_store

World = Any  # the class stands in conftest, which tests cannot import
Cache = Any

SOURCE = '''"""Locks that many may hold."""

from os import path

class WriteLock:
    """Held by one at a time."""

    def take(self) -> None:
        wait_for(path)  # because readers come first
        wait_for(self)
'''


class Counted:
    """A repository that tells which blobs were read from it."""

    def __init__(self, repository: Contents) -> None:
        self.repository = repository
        self.read: list[str] = []

    def blobs(
        self, blob_ids: Iterable[str], max_bytes: int = 1_000_000
    ) -> Iterator[tuple[str, bytes | None]]:
        for blob, data in self.repository.blobs(blob_ids, max_bytes=max_bytes):
            self.read.append(blob)
            yield blob, data


def terms(packed: Packed) -> dict[int, int]:
    bag = packed.bag()
    return dict(zip(bag.terms.tolist(), bag.counts.tolist(), strict=True))


def opened(world: World) -> Counted:
    return Counted(GitRepository.open(world.root))


def wanted(world: World, language: str = "python") -> dict[str, str]:
    listed = world.git("ls-tree", "-r", "--format=%(objectname)", "main").split()
    return dict.fromkeys(listed, language)


def test_a_digest_counts_words_names_prose_and_calls_apart() -> None:
    digest = digest_of(SOURCE.encode(), "python")
    assert terms(digest.text) == count_terms(SOURCE)
    assert terms(digest.symbols) == count_terms("WriteLock take")
    assert terms(digest.names) == {hash_of("writelock"): 1, hash_of("take"): 1}
    assert hash_of("reader") in terms(digest.prose)
    assert hash_of("hold") in terms(digest.prose)
    assert terms(digest.calls)[hash_of("wait")] == 2
    assert (digest.num_lines, digest.num_symbols, digest.language) == (11, 2, "python")
    assert [item.module for item in digest.imports] == ["os"]


def test_a_long_file_is_also_counted_in_windows_that_make_up_the_whole() -> None:
    lines = [f"name_{n // WINDOW_LINES} = 1" for n in range(3 * WINDOW_LINES + 1)]
    digest = digest_of("\n".join(lines).encode(), "python")
    assert [whole(f"name_{n}") in terms(window) for n, window in enumerate(digest.windows)] == [
        True
    ] * 4
    assert sum(sum(terms(window).values()) for window in digest.windows) == sum(
        terms(digest.text).values()
    )


@pytest.mark.parametrize(
    "data",
    [
        b"class Real:\0\1\2",
        b"var realName=function(){return 1};" * 2_000,
        b"x = 'real'\n" * 200_000,
    ],
    ids=["binary", "minified", "huge"],
)
def test_what_nobody_edits_gives_an_empty_digest(data: bytes) -> None:
    assert digest_of(data, "python") == Digest(language="python")


def test_bytes_that_are_no_utf8_are_counted_as_far_as_they_can_be_read() -> None:
    digest = digest_of(b"def caf\xe9(): pass\ndef wait(): pass\n\xff\xfe\n", "python")
    assert hash_of("wait") in terms(digest.symbols)


@settings(max_examples=60, deadline=None)  # the first of each language loads its grammar
@given(st.binary(max_size=300), st.sampled_from(["python", "go", "cpp", "tsx", "java", "rust"]))
def test_any_bytes_have_a_digest(data: bytes, language: str) -> None:
    digest = digest_of(data, language)
    assert digest.language == language
    assert terms(digest.symbols).keys() <= terms(digest.text).keys() | terms(digest.names).keys()


def test_what_was_counted_once_is_never_read_again(world: World, cache: Cache) -> None:
    world.grow(("one", {"a.py": SOURCE, "b.py": "x = 1\n", "empty.py": ""}))
    repository, seen = opened(world), []
    first = digests(repository, cache, wanted(world), lambda done, all: seen.append((done, all)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    repository.read.clear()
    assert digests(repository, cache, wanted(world)) == first
    assert repository.read == []
    world.grow(("two", {"c.py": "y = 2\n"}))
    assert len(digests(repository, cache, wanted(world))) == 4
    assert len(repository.read) == 1


def test_digests_outlive_the_process_in_the_store(world: World, tmp_path: Path) -> None:
    world.grow(("one", {"a.py": SOURCE}))
    repository = opened(world)
    with open_store(tmp_path) as store:
        first = digests(repository, store.blobs, wanted(world))
    with open_store(tmp_path) as store:
        assert digests(repository, store.blobs, wanted(world)) == first
    assert len(repository.read) == 1


def test_one_content_in_two_languages_has_a_digest_in_each(world: World, cache: Cache) -> None:
    world.grow(("one", {"a.py": SOURCE}))
    repository = opened(world)
    (as_python,) = digests(repository, cache, wanted(world, "python")).values()
    (as_go,) = digests(repository, cache, wanted(world, "go")).values()
    assert as_python.num_symbols == 2
    assert (as_go.language, terms(as_go.text)) == ("go", terms(as_python.text))


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"\x93\x01", b"not msgpack at all"])
def test_a_damaged_entry_is_made_anew(world: World, cache: Cache, damage: bytes) -> None:
    world.grow(("one", {"a.py": SOURCE}))
    first = digests(opened(world), cache, wanted(world))
    for key in cache:
        cache[key] = damage
    assert digests(opened(world), cache, wanted(world)) == first
    repository = opened(world)
    assert digests(repository, cache, wanted(world)) == first
    assert repository.read == []


def test_entries_of_an_older_version_are_not_taken(world: World, cache: Cache) -> None:
    world.grow(("one", {"a.py": SOURCE}))
    first = digests(opened(world), cache, wanted(world))
    old = {(kind, DIGEST_VERSION - 1, blob): data for (kind, _, blob), data in cache.items()}
    cache.clear()
    cache.update(old)
    repository = opened(world)
    assert digests(repository, cache, wanted(world)) == first
    assert len(repository.read) == 1


def test_a_blob_that_the_clone_lacks_is_empty_until_it_is_there(world: World, cache: Cache) -> None:
    world.commit(a_py=SOURCE)
    (blob,) = wanted(world)
    lost = world.object_file(blob)
    kept = lost.read_bytes()
    lost.unlink()
    assert digests(opened(world), cache, {blob: "python"}) == {blob: Digest(language="python")}
    lost.write_bytes(kept)
    assert digests(opened(world), cache, {blob: "python"})[blob].num_symbols == 2


def test_an_interrupted_count_goes_on_from_the_last_batch_written(
    world: World, cache: Cache
) -> None:
    size = BATCH_BYTES // 9  # minified: read, but quickly counted
    world.grow(("big", {f"{n}.js": f"{n};" + "x" * size for n in range(18)}))
    repository = opened(world)

    def stop_late(done: int, total: int) -> None:
        if done == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        digests(repository, cache, wanted(world, "javascript"), stop_late)
    kept = len(cache)
    assert 8 <= kept < 15
    repository.read.clear()
    assert len(digests(repository, cache, wanted(world, "javascript"))) == 18
    assert len(repository.read) == 18 - kept


def test_nothing_wanted_writes_nothing(world: World, cache: Cache) -> None:
    world.commit(a_py="")
    assert digests(opened(world), cache, {}) == {}
    assert cache.num_writes == 0
