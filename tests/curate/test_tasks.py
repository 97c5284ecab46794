"""A task asks what a person would ask, and no answer from later reaches training."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.curate.tasks import MIN_WEIGHT, clean_query, localisation_tasks, split_by_time
from twin.errors import UsageError
from twin.records import ChangeStatus, Commit, FileChange, MinedCommit, Task

TREE = {path: "b" * 40 for path in ("p/a.py", "p/b.py", "p/old.py", "tests/test_a.py", "README.md")}


def mined(
    subject: str = "Return the error of the parser",
    *changes: tuple[ChangeStatus, str],
    time: int = 100,
    commit_id: str = "c" * 40,
    dropped_by: str | None = None,
    parents: tuple[str, ...] = ("d" * 40,),
    score: float = 0.7,
    num_test_files: int = 0,
) -> MinedCommit:
    return MinedCommit(
        commit=Commit(
            commit_id=commit_id,
            parent_ids=parents,
            author_name="Ada",
            author_email="ada@example.org",
            author_time=time,
            commit_time=time,
            subject=subject,
            body="",
            changes=tuple(
                FileChange(
                    path=path, status=status, old_path="p/old.py" if status in "RC" else None
                )
                for status, path in changes or (("M", "p/a.py"),)
            ),
        ),
        num_source_files=1,
        num_test_files=num_test_files,
        num_source_lines=1,
        message_score=score,
        dropped_by=dropped_by,
    )


def tasks_of(*commits: MinedCommit) -> list[Task]:
    return localisation_tasks(commits, "ada/engine", lambda commit_id: TREE)


def task(time: int, query: str = "q") -> Task:
    return Task(
        repository="ada/engine", commit_id=f"{time}", parent_id="", time=time, query=query,
        targets=("p/a.py",),
    )  # fmt: skip


# Targets


def test_a_commit_becomes_a_task_about_the_files_that_its_parent_had() -> None:
    (found,) = tasks_of(
        mined(
            "Return the error",
            ("M", "p/b.py"),
            ("A", "p/new.py"),
            ("R", "p/moved.py"),
            ("M", "tests/test_a.py"),
            ("M", "README.md"),
            ("D", "p/a.py"),
            num_test_files=1,
        )
    )
    assert found == Task(
        repository="ada/engine",
        commit_id="c" * 40,
        parent_id="d" * 40,
        time=100,
        query="Return the error",
        targets=("p/a.py", "p/b.py", "p/old.py"),
        weight=0.7,
        touches_tests=True,
    )


@pytest.mark.parametrize(
    "commit",
    [
        mined("Add a file", ("A", "p/new.py")),
        mined("Copy a file", ("C", "p/copy.py")),
        mined("Edit what the parent lacks", ("M", "p/elsewhere.py")),
        mined("Edit the tests", ("M", "tests/test_a.py")),
        mined("Dropped by a rule", dropped_by="bot"),
        mined("The first commit", parents=()),
        mined("#123"),
        mined("https://example.org/issue/1"),
        mined("1.2.3"),
        mined(""),
    ],
    ids=lambda commit: commit.commit.subject or "empty",
)
def test_what_names_no_place_or_has_no_earlier_file_is_no_task(commit: MinedCommit) -> None:
    assert tasks_of(commit) == []


def test_the_tree_is_that_of_the_first_parent_and_asked_for_only_where_needed() -> None:
    asked: list[str] = []

    def tree(commit_id: str) -> dict[str, str]:
        asked.append(commit_id)
        return TREE

    kept = mined(parents=("1" * 40, "2" * 40))
    localisation_tasks([kept, mined(dropped_by="bot"), mined("#1")], "r", tree)
    assert asked == ["1" * 40]


def test_a_weak_message_weighs_little_but_never_nothing() -> None:
    assert tasks_of(mined(score=0.0))[0].weight == MIN_WEIGHT


def test_a_file_whose_name_is_not_utf8_can_be_a_target() -> None:
    name = b"p/caf\xe9.py".decode("utf-8", "surrogateescape")
    (found,) = localisation_tasks([mined("Edit it", ("M", name))], "r", lambda _: {name: ""})
    assert found.targets == (name,)


# Queries


@pytest.mark.parametrize(
    ("message", "query"),
    [
        ("Fix the cache (#123)", "Fix the cache"),
        ("Fix the cache (GH-12, GH-13)", "Fix the cache"),
        ("Fix #123: the cache", "the cache"),
        ("Fix the cache, fixes #12 and #13.", "Fix the cache"),
        ("Fix the cache\n\nCloses org/repo#5\nSee also #7.", "Fix the cache"),
        ("Solve issue 12 of the cache", "Solve of the cache"),
        ("See https://x.org/a?b=c#d for the cache", "See for the cache"),
        ("Undo 1a2b3c4d in the cache", "Undo in the cache"),
        ("Move src/attr/_make.py to another place", "Move to another place"),
        ("Clean up `_make.py`", "Clean up"),
        ("validators.py: fix the deep one", "fix the deep one"),
        ("Edit src/attr/ and tests/", "Edit and"),
        ("Run it as tests/test_a.py::test_b[x] alone", "Run it as alone"),
        ("fix(cache): keep the prefix", "fix(cache): keep the prefix"),
        ("Call close() and open() twice", "Call close() and open() twice"),
        ("Change attr.a to attr.ib", "Change attr.a to attr.ib"),
        ("Use utf-8 or SHA-256 and PEP 484", "Use utf-8 or SHA-256 and PEP 484"),
        ("Support and/or in I/O", "Support and/or in I/O"),
        ("Fix it\n\nSigned-off-by: A <a@b.c>\nCo-authored-by: B <b@c.d>", "Fix it"),
        ("Fix it\r\n\r\nBecause\r\nof that.  \r\n", "Fix it\n\nBecause\nof that."),
        ("Fix it\n\n\n\n\nBecause", "Fix it\n\nBecause"),
        ("Mail ada@example.org about it", "Mail about it"),
        ("Decade of 1234567 beefed cafes", "Decade of 1234567 beefed cafes"),
        ("Nul\0byte", "Nulbyte"),
        ("", ""),
    ],
)
def test_a_query_keeps_the_words_and_loses_what_gives_the_answer_away(
    message: str, query: str
) -> None:
    subject, _, body = message.partition("\n\n")
    assert clean_query(subject, body) == query


@given(st.text(max_size=400), st.text(max_size=400))
def test_cleaning_any_text_leaves_no_marks_and_no_loose_space(subject: str, body: str) -> None:
    query = clean_query(subject, body)
    assert "\0" not in query
    assert query == query.strip()


@pytest.mark.parametrize(
    "piece",
    ["a", "a.", "a/", "+", "@", "-", "a@", "<", "#1 ", "see ", "a-b", "0", "0a", "/", "..",
     "fix #1, ", "`", "(", "\n", "A-", "http://", "x.py", "a/b.py "],
)  # fmt: skip
def test_a_message_made_to_be_slow_is_not(piece: str) -> None:
    clean_query(piece * 50_000, piece * 50_000)


# Duplicates


def test_a_cherry_pick_counts_once_where_it_came_first() -> None:
    first = mined("Return  the Error", time=10, commit_id="1" * 40)
    again = mined("Return the error (#9)", time=99, commit_id="2" * 40)
    other_files = mined("Return the error", ("M", "p/b.py"), time=100, commit_id="3" * 40)
    found = tasks_of(again, first, other_files)
    assert [task.commit_id for task in found] == ["1" * 40, "3" * 40]


def test_no_question_is_asked_on_both_sides_of_the_split() -> None:
    commits = [mined(f"Return error {n % 7}", time=n, commit_id=f"{n:040d}") for n in range(50)]
    train, holdout = split_by_time(tasks_of(*commits), 0.2)
    assert holdout
    assert not {(t.query, t.targets) for t in train} & {(t.query, t.targets) for t in holdout}


# The split


def test_the_latest_share_is_held_out() -> None:
    train, holdout = split_by_time([task(n) for n in range(10)], 0.2)
    assert [t.time for t in train] == list(range(8))
    assert [t.time for t in holdout] == [8, 9]


def test_rows_planted_from_the_future_never_reach_training() -> None:
    rows = [task(n) for n in range(100)] + [task(4_102_444_800 + n, "planted") for n in range(5)]
    for seed in range(20):
        random.Random(seed).shuffle(rows)
        train, holdout = split_by_time(rows, 0.2)
        assert all(t.query != "planted" for t in train)
        assert sum(t.query == "planted" for t in holdout) == 5


@given(
    st.lists(st.integers(min_value=-5, max_value=30)),
    st.floats(min_value=0.01, max_value=0.99),
)
def test_every_training_task_is_strictly_earlier_than_every_held_out_one(
    times: list[int], share: float
) -> None:
    train, holdout = split_by_time([task(time) for time in times], share)
    assert sorted(t.time for t in train + holdout) == sorted(times)
    assert bool(holdout) == bool(times)
    assert all(early.time < late.time for early in train for late in holdout)
    # Ties move to the held-out side, so it is at least the share that was asked for.
    assert len(holdout) >= int(len(times) * share)


def test_tasks_of_one_moment_stay_together() -> None:
    train, holdout = split_by_time([task(t) for t in (1, 2, 3, 3, 3)], 0.2)
    assert [t.time for t in train] == [1, 2]
    assert [t.time for t in holdout] == [3, 3, 3]


@pytest.mark.parametrize("share", [0, 1, -0.2, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused_with_the_cure(share: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        split_by_time([task(1)], share)
