"""Snapshots of real repositories through the real cache: what is parsed, skipped, and kept."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from twin.coding import index
from twin.coding.git import GitRepository
from twin.coding.index import Snapshot, build_snapshot, parsed_blobs
from twin.coding.parse import parse
from twin.store.blobs import BlobCache
from twin.store.database import open_store


class Watched:
    """A repository, opened when first used, that counts the blobs it hands out and can break in
    the middle."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.read: list[str] = []
        self.break_after: int | None = None

    @cached_property
    def repository(self) -> GitRepository:
        return GitRepository.open(self.root)

    def tree(self, commit_id: str) -> Mapping[str, str]:
        return self.repository.tree(commit_id)

    def blobs(
        self, blob_ids: Iterable[str], max_bytes: int = 1_000_000
    ) -> Iterator[tuple[str, bytes | None]]:
        for blob, data in self.repository.blobs(blob_ids, max_bytes):
            if self.break_after == len(self.read):
                raise KeyboardInterrupt
            self.read.append(blob)
            yield blob, data


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[BlobCache]:
    with open_store(tmp_path) as store:
        yield store.blobs


@pytest.fixture
def watch(world: Any) -> Iterator[Callable[[], Watched]]:
    started: list[Watched] = []

    def start() -> Watched:
        started.append(Watched(world.root))
        return started[-1]

    yield start
    for watched in started:
        watched.repository.close()


def equal(one: Snapshot, other: Snapshot) -> bool:
    return (
        one.files == other.files
        and dict(one.parsed) == dict(other.parsed)
        and one.imports == other.imports
        and list(one.parsed) == list(other.parsed)
    )


def test_a_snapshot_holds_the_tree_what_was_parsed_and_the_imports(
    world: Any, watch: Callable[[], Watched], cache: BlobCache
) -> None:
    world.write("pkg/__init__.py", "from .core import run\n")
    head = world.commit(pkg__core_py="def run(): ...\n", README="hi")
    snapshot = build_snapshot(watch(), cache, head)
    assert list(snapshot.files) == ["README", "pkg/__init__.py", "pkg/core.py"]
    assert list(snapshot.parsed) == ["pkg/__init__.py", "pkg/core.py"]
    assert snapshot.parsed["pkg/core.py"] == parse(b"def run(): ...\n", "python")
    assert snapshot.imports["pkg/__init__.py"] == {"pkg/core.py"}
    assert "README" not in snapshot.parsed


def test_a_second_snapshot_reads_no_blob_and_is_the_same(
    world: Any, watch: Callable[[], Watched], cache: BlobCache
) -> None:
    head = world.commit(a_py="import b\n", b_py="x = 1\n", c__d_py="from a import y\n")
    first = build_snapshot(watch(), cache, head)
    again = watch()
    assert equal(build_snapshot(again, cache, head), first)
    assert again.read == []


def test_the_next_commit_reads_only_what_changed(
    world: Any, watch: Callable[[], Watched], cache: BlobCache
) -> None:
    build_snapshot(watch(), cache, world.commit(a_py="a = 1\n", b_py="b = 1\n", c_py="c = 1\n"))
    repository = watch()
    snapshot = build_snapshot(repository, cache, world.commit(b_py="import a\n"))
    assert repository.read == [snapshot.files["b.py"]]
    assert snapshot.imports["b.py"] == {"a.py"}


def test_one_content_under_two_names_is_parsed_once_in_each_language(
    world: Any, watch: Callable[[], Watched], cache: BlobCache
) -> None:
    world.write("a.ts", "export const LIMIT = 1\n")
    head = world.commit(b_py="export const LIMIT = 1\n", c_py="export const LIMIT = 1\n")
    repository = watch()
    snapshot = build_snapshot(repository, cache, head)
    assert len(repository.read) == 1
    assert [snapshot.parsed[path].language for path in snapshot.parsed] == [
        "typescript",
        "python",
        "python",
    ]


def test_what_is_not_worth_parsing_is_skipped_and_remembered(
    world: Any, watch: Callable[[], Watched], cache: BlobCache
) -> None:
    world.write("binary.py", b"x = 1\0\n")
    world.write("minified.js", b"var a=1;" * 2000)
    world.write("huge.py", b"x = 1\n" * 200_000)
    world.write("vendor/lib.go", b"package lib\n")
    head = world.commit(good_py="x = 1\n")
    snapshot = build_snapshot(watch(), cache, head)
    assert list(snapshot.parsed) == ["good.py"]
    assert snapshot.num_skipped == 4
    again = watch()
    assert equal(build_snapshot(again, cache, head), snapshot)
    assert again.read == [snapshot.files["huge.py"]]  # its size is asked for, nothing is read


def test_names_and_contents_that_are_not_utf8(
    world: Any, watch: Callable[[], Watched], cache: BlobCache
) -> None:
    name = b"caf\xe9.py".decode(errors="surrogateescape")
    world.write(name, b"# caf\xe9 because\nclass \xe9: pass\n")
    snapshot = build_snapshot(watch(), cache, world.commit())
    assert list(snapshot.parsed) == [name]
    assert equal(build_snapshot(watch(), cache, world.git("rev-parse", "HEAD")), snapshot)


def test_a_repository_without_code_gives_an_empty_snapshot(
    world: Any, watch: Callable[[], Watched], cache: BlobCache
) -> None:
    snapshot = build_snapshot(watch(), cache, world.commit(README="hi"))
    assert not snapshot.parsed
    assert not snapshot.imports


def test_an_interrupted_index_goes_on_from_its_last_batch(
    world: Any,
    watch: Callable[[], Watched],
    cache: BlobCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(index, "BATCH_BYTES", 60)
    for number in range(20):
        world.write(f"f{number}.py", f"x = {number}  # {'-' * 20}\n")
    head = world.commit()
    broken = watch()
    broken.break_after = 11
    with pytest.raises(KeyboardInterrupt):
        build_snapshot(broken, cache, head)
    resumed = watch()
    snapshot = build_snapshot(resumed, cache, head)
    assert len(snapshot.parsed) == 20
    assert len(resumed.read) == 20 - 10


def test_a_damaged_entry_is_made_anew(
    world: Any, watch: Callable[[], Watched], cache: BlobCache
) -> None:
    head = world.commit(a_py="import b\n", b_py="")
    blob = watch().tree(head)["a.py"]
    cache.put_many("parsed-python", index.PARSER_VERSION, {blob: b"\x93\x01"})
    assert build_snapshot(watch(), cache, head).imports["a.py"] == {"b.py"}


def test_progress_counts_the_blobs_to_parse(
    world: Any, watch: Callable[[], Watched], cache: BlobCache
) -> None:
    head = world.commit(a_py="a = 1\n", b_py="b = 1\n")
    seen: list[tuple[int, int]] = []
    build_snapshot(watch(), cache, head, lambda done, total: seen.append((done, total)))
    build_snapshot(watch(), cache, head, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_many_blobs_at_once_leave_out_what_is_missing(
    world: Any, watch: Callable[[], Watched], cache: BlobCache
) -> None:
    world.write("b.py", b"\0")
    tree = watch().tree(world.commit(a_py="def f(): ...\n"))
    missing = "0" * 39 + "1"
    wanted = {tree["a.py"]: "python", tree["b.py"]: "python", missing: "python"}
    found = parsed_blobs(watch(), cache, wanted)
    assert list(found) == [tree["a.py"]]
    assert found[tree["a.py"]].symbols[0].name == "f"


def test_two_indexers_at_once_agree(
    world: Any, watch: Callable[[], Watched], tmp_path: Path
) -> None:
    head = world.commit(a_py="import b\n", b_py="x = 1\n")
    with open_store(tmp_path) as one, open_store(tmp_path) as other:
        first, second = watch(), watch()

        def meanwhile(_done: int, _total: int) -> None:
            if not second.read:
                build_snapshot(second, other.blobs, head)

        mine = build_snapshot(first, one.blobs, head, meanwhile)
        assert equal(mine, build_snapshot(watch(), other.blobs, head))
