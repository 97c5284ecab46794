"""The cache of what was derived from git blobs."""

import threading

from twin.store.database import Store


def _ids(count: int) -> list[str]:
    return [f"{number:040x}" for number in range(count)]


def test_what_was_put_is_found_and_the_rest_is_not_there(store: Store) -> None:
    store.blobs.put_many("parse", 1, {"a": b"1", "b": b""})
    assert store.blobs.get_many("parse", 1, ["a", "b", "c"]) == {"a": b"1", "b": b""}


def test_kinds_and_versions_do_not_mix(store: Store) -> None:
    store.blobs.put_many("parse", 1, {"a": b"old"})
    store.blobs.put_many("parse", 2, {"a": b"new"})
    store.blobs.put_many("terms", 1, {"a": b"terms"})
    assert store.blobs.get_many("parse", 1, ["a"]) == {"a": b"old"}
    assert store.blobs.get_many("parse", 2, ["a"]) == {"a": b"new"}
    assert store.blobs.get_many("terms", 1, ["a"]) == {"a": b"terms"}


def test_pruning_keeps_only_the_newest_version_of_each_kind(store: Store) -> None:
    store.blobs.put_many("parse", 1, {"a": b"", "b": b""})
    store.blobs.put_many("parse", 3, {"a": b""})
    store.blobs.put_many("terms", 1, {"a": b""})
    assert store.blobs.prune() == 2
    assert store.blobs.get_many("parse", 3, ["a"]) == {"a": b""}
    assert store.blobs.get_many("terms", 1, ["a"]) == {"a": b""}
    assert store.blobs.prune() == 0


def test_putting_again_is_harmless(store: Store) -> None:
    store.blobs.put_many("parse", 1, {"a": b"1"})
    store.blobs.put_many("parse", 1, {"a": b"1", "b": b"2"})
    assert store.blobs.get_many("parse", 1, ["a", "b"]) == {"a": b"1", "b": b"2"}


def test_nothing_and_thousands_and_binary_megabytes_fit(store: Store) -> None:
    store.blobs.put_many("parse", 1, {})
    assert store.blobs.get_many("parse", 1, []) == {}
    many = {blob_id: bytes(range(256)) for blob_id in _ids(3000)}
    store.blobs.put_many("parse", 1, many)
    assert store.blobs.get_many("parse", 1, iter(_ids(5000))) == many
    store.blobs.put_many("parse", 1, {"huge": b"\x00\xff" * 5_000_000})
    assert store.blobs.get_many("parse", 1, ["huge", "huge"])["huge"] == b"\x00\xff" * 5_000_000


def test_threads_can_share_one_store(store: Store) -> None:
    ids = _ids(400)
    faults: list[BaseException] = []

    def write_and_read() -> None:
        try:
            store.blobs.put_many("parse", 1, {blob_id: b"x" for blob_id in reversed(ids)})
            assert len(store.blobs.get_many("parse", 1, ids)) == 400
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=write_and_read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
