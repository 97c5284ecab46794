"""Mined commits, kept per repository in git's order."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twin.records import Commit, FileChange, Label, MinedCommit
from twin.store.database import Store

AWKWARD = b"caf\xe9\xff/\x1a.py".decode("utf-8", "surrogateescape")


def mined(number: int, *changes: FileChange, subject: str = "Fix the retry") -> MinedCommit:
    return MinedCommit(
        commit=Commit(
            commit_id=f"{number:040x}",
            parent_ids=(f"{number - 1:040x}",) if number else (),
            author_name="Ann",
            author_email="ann@example.org",
            author_time=number,
            commit_time=-number,
            subject=subject,
            body="Because it failed.\n",
            changes=changes,
        ),
        num_source_files=len(changes),
        num_test_files=0,
        num_source_lines=7,
        message_score=0.5,
        labels=(Label(name="fix", reason="starts with `fix`"),),
    )


def change(path: str) -> FileChange:
    return FileChange(path=path, status="M", added=3, deleted=4, old_blob="a", new_blob="b")


def test_a_history_comes_back_as_it_was_put_and_in_its_order(store: Store) -> None:
    commits = [
        mined(0),
        mined(1, change("b.py"), change("a.py")),
        mined(
            2,
            FileChange(path="new.py", status="R", old_path="old.py", added=0, deleted=0),
            FileChange(path="logo.png", status="A", new_blob="c"),
            subject="",
        ),
    ]
    assert store.history.replace("a/b", "head", iter(commits)) == 3
    assert store.history.commits("a/b") == commits
    assert store.history.head("a/b") == "head"


def test_an_unknown_repository_has_no_head_and_no_commits(store: Store) -> None:
    assert store.history.head("a/b") is None
    assert store.history.commits("a/b") == []


def test_names_that_are_not_utf_8_come_back_byte_for_byte(store: Store) -> None:
    commits = [mined(1, change(AWKWARD), subject=AWKWARD)]
    store.history.replace(AWKWARD, "head", commits)
    assert store.history.commits(AWKWARD) == commits


def test_replacing_leaves_nothing_of_the_old_and_nothing_of_others_out(store: Store) -> None:
    store.history.replace("a/b", "1", [mined(n, change("x.py")) for n in range(5)])
    store.history.replace("c/d", "1", [mined(9)])
    store.history.replace("a/b", "2", [mined(7)])
    assert store.history.commits("a/b") == [mined(7)]
    assert store.history.commits("c/d") == [mined(9)]
    assert store.history.head("a/b") == "2"


def test_appending_twice_adds_once(store: Store) -> None:
    store.history.replace("a/b", "1", [mined(0), mined(1, change("x.py"))])
    new = [mined(1, change("x.py")), mined(2, change("y.py"))]
    assert store.history.append("a/b", "2", new) == 1
    assert store.history.append("a/b", "2", new) == 0
    assert store.history.commits("a/b") == [mined(0), *new]
    assert store.history.head("a/b") == "2"


def test_appending_to_nothing_begins_a_history(store: Store) -> None:
    assert store.history.append("a/b", "1", [mined(0)]) == 1
    assert store.history.commits("a/b") == [mined(0)]


def test_an_empty_history_still_has_its_head(store: Store) -> None:
    assert store.history.replace("a/b", "1", []) == 0
    assert store.history.head("a/b") == "1"


@pytest.mark.parametrize("fault", [KeyboardInterrupt, ValueError])
def test_a_history_interrupted_half_way_leaves_the_old_one(
    store: Store, fault: type[BaseException]
) -> None:
    store.history.replace("a/b", "old", [mined(0)])

    def interrupted() -> Iterator[MinedCommit]:
        for number in range(5000):
            yield mined(number, change("x.py"))
        raise fault

    with pytest.raises(fault):
        store.history.replace("a/b", "new", interrupted())
    assert store.history.head("a/b") == "old"
    assert store.history.commits("a/b") == [mined(0)]


def test_a_reader_sees_the_old_history_until_the_new_one_is_whole(store: Store) -> None:
    store.history.replace("a/b", "old", [mined(0)])
    seen: list[list[MinedCommit]] = []

    def looking() -> Iterator[MinedCommit]:
        for number in range(3000):
            yield mined(number)
        seen.append(store.history.commits("a/b"))

    store.history.replace("a/b", "new", looking())
    assert seen == [[mined(0)]]
    assert len(store.history.commits("a/b")) == 3000


def test_a_commit_that_changes_ten_thousand_files_fits(store: Store) -> None:
    sweep = mined(1, *(change(f"vendor/{number}.c") for number in range(10_000)))
    store.history.replace("a/b", "1", [mined(0), sweep, mined(2, change("x.py"))])
    assert store.history.commits("a/b")[1] == sweep


texts = st.text(st.characters(exclude_characters="\t\n"), max_size=20)
changes = st.builds(
    FileChange,
    path=texts,
    status=st.sampled_from("ACDMRT"),
    old_path=st.none() | texts,
    added=st.none() | st.integers(0, 2**40),
    deleted=st.none() | st.integers(0, 2**40),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(texts, st.lists(changes, max_size=4)), max_size=4))
def test_any_history_comes_back(store: Store, drawn: list[tuple[str, list[FileChange]]]) -> None:
    commits = [mined(n, *some, subject=subject) for n, (subject, some) in enumerate(drawn)]
    store.history.replace("a/b", "head", commits)
    assert store.history.commits("a/b") == commits
