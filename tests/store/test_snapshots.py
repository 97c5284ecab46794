"""Which files an indexed commit holds."""

from twin.store.database import Store

AWKWARD = b"\xff\t\n caf\xe9.py".decode("utf-8", "surrogateescape")


def test_a_snapshot_comes_back_in_its_order(store: Store) -> None:
    files = {"b.py": "2" * 40, "a.py": "1" * 40, AWKWARD: "3" * 64}
    store.snapshots.put("a/b", "c1", files)
    found = store.snapshots.get("a/b", "c1")
    assert found == files
    assert found is not None
    assert list(found) == list(files)


def test_a_commit_that_was_never_indexed_has_none(store: Store) -> None:
    assert store.snapshots.get("a/b", "c1") is None
    assert store.snapshots.newest("a/b") is None


def test_a_commit_without_files_is_not_the_same_as_none(store: Store) -> None:
    store.snapshots.put("a/b", "c1", {})
    assert store.snapshots.get("a/b", "c1") == {}


def test_the_newest_is_the_one_put_last_also_if_it_was_put_before(store: Store) -> None:
    store.snapshots.put("a/b", "c1", {"a": "1"})
    store.snapshots.put("a/b", "c2", {"a": "2"})
    store.snapshots.put("x/y", "c9", {"a": "9"})
    assert store.snapshots.newest("a/b") == ("c2", {"a": "2"})
    store.snapshots.put("a/b", "c1", {"a": "1"})
    assert store.snapshots.newest("a/b") == ("c1", {"a": "1"})


def test_only_the_last_few_of_a_repository_are_kept(store: Store) -> None:
    store.snapshots.put("x/y", "c0", {"a": "0"})
    for number in range(40):
        store.snapshots.put("a/b", f"c{number}", {"a": str(number)})
    assert store.snapshots.get("a/b", "c0") is None
    assert store.snapshots.get("a/b", "c30") == {"a": "30"}
    assert store.snapshots.get("x/y", "c0") == {"a": "0"}


def test_ten_thousand_files_fit(store: Store) -> None:
    files = {f"src/package/module{number}.py": f"{number:040x}" for number in range(10_000)}
    store.snapshots.put("a/b", "c1", files)
    assert store.snapshots.get("a/b", "c1") == files
