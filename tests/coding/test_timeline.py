"""A repository's past is told as it was at each moment, and a file stays itself when renamed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from twin.coding.git import GitRepository
from twin.coding.history import read_history
from twin.coding.text import count_terms
from twin.coding.timeline import MAX_FILES, Timeline
from twin.records import Commit, FileChange

World = Any  # the class stands in conftest, which tests cannot import


def commit(number: int, *changes: FileChange | str, **facts: Any) -> Commit:
    """The commit of the given number; a change that is only a path is a modification."""
    return replace(
        Commit(
            commit_id=f"{number:040x}",
            parent_ids=(f"{number - 1:040x}",) if number else (),
            author_name="Ada",
            author_email="ada@example.org",
            author_time=1_700_000_000 + 60 * number,
            commit_time=1_700_000_000 + 60 * number,
            subject=f"Change {number}",
            body="",
            changes=tuple(
                FileChange(path=one, status="M") if isinstance(one, str) else one for one in changes
            ),
        ),
        **facts,
    )


def renamed(old: str, new: str) -> FileChange:
    return FileChange(path=new, old_path=old, status="R")


def touches(timeline: Timeline, path: str, moment: int) -> float:
    by_line = timeline.spread(np.ones(moment), moment)
    return float(by_line[timeline.lines_at([path], moment)[0]])


def told(world: World) -> list[Commit]:
    with GitRepository.open(world.root) as repository:
        return list(read_history(repository))


def test_a_file_keeps_its_line_through_renames(world: World) -> None:
    text = "".join(f"line {n}\n" for n in range(30))
    world.grow(
        ("first", {"old.py": text, "other.py": "x\n"}),
        ("edit", {"old.py": text + "more\n"}),
        ("move", {"old.py -> pkg/new.py": text + "more\nyet more\n"}),
        ("again", {"pkg/new.py -> pkg/newest.py": text + "more\nyet more\n"}),
        ("edit", {"pkg/newest.py": text}),
    )
    timeline = Timeline(told(world))
    (line,) = timeline.lines_at(["old.py"], 2)
    assert timeline.lines_at(["pkg/new.py"], 3).tolist() == [line]
    assert timeline.lines_at(["pkg/newest.py"], 5).tolist() == [line]
    assert touches(timeline, "pkg/newest.py", 5) == 5
    assert timeline.created[line] == 0
    assert timeline.last_touch(5)[line] == 4


def test_a_rename_that_is_yet_to_come_is_not_seen() -> None:
    timeline = Timeline([commit(0, "a.py"), commit(1, renamed("a.py", "b.py")), commit(2, "b.py")])
    unknown = timeline.num_lines
    assert timeline.lines_at(["a.py", "b.py"], 1).tolist() == [0, unknown]
    assert timeline.lines_at(["b.py"], 2).tolist() == [0]
    assert touches(timeline, "a.py", 1) == 1


def test_a_new_file_under_an_old_name_is_another_file() -> None:
    timeline = Timeline(
        [
            commit(0, "a.py"),
            commit(1, renamed("a.py", "b.py")),
            commit(2, FileChange(path="a.py", status="A")),
            commit(3, FileChange(path="b.py", status="D")),
            commit(4, FileChange(path="b.py", status="A")),
        ]
    )
    before, after = timeline.lines_at(["a.py"], 1)[0], timeline.lines_at(["a.py"], 3)[0]
    assert before != after
    assert timeline.lines_at(["b.py"], 4)[0] == before
    assert timeline.lines_at(["b.py"], 5)[0] not in (before, after)
    assert touches(timeline, "b.py", 5) == 1


def test_a_merge_takes_a_position_but_touches_nothing(world: World) -> None:
    world.commit("first", a_py="1\n")
    world.git("switch", "-q", "-c", "side")
    world.commit("side", b_py="1\n")
    world.git("switch", "-q", "main")
    world.commit("main", a_py="2\n")
    world.clock += 60
    world.git("merge", "-q", "--no-ff", "-m", "merge", "side")
    commits = told(world)
    timeline = Timeline(commits)
    assert timeline.num_commits == 4
    assert timeline.position[commits[3].commit_id] == 3
    assert timeline.changed[3] == ()
    assert [touches(timeline, path, 4) for path in ("a.py", "b.py")] == [2, 1]
    forged = replace(commits[3], changes=(FileChange(path="a.py", status="M"),))
    assert Timeline([*commits[:3], forged]).changed[3] == ()


def test_a_commit_that_changes_very_many_files_counts_as_no_touch() -> None:
    sweep = [f"{n}.py" for n in range(MAX_FILES + 1)]
    timeline = Timeline([commit(0, *sweep), commit(1, *sweep[:MAX_FILES])])
    assert touches(timeline, "0.py", 1) == 0
    assert touches(timeline, "0.py", 2) == 1
    assert touches(timeline, f"{MAX_FILES}.py", 2) == 0
    assert timeline.last_touch(2)[timeline.lines_at([f"{MAX_FILES}.py"], 2)[0]] == -1
    assert timeline.created[0] == 0  # but the files are known from then on


def test_files_in_no_known_language_have_no_line() -> None:
    timeline = Timeline([commit(0, "README.md", "a.py", "data.bin")])
    assert timeline.num_lines == 1
    assert timeline.lines_at(["README.md"], 1).tolist() == [1]


def test_an_unknown_author_is_minus_one_and_case_does_not_matter() -> None:
    other = commit(1, author_email="Grace@Example.org")
    timeline = Timeline([commit(0), other, commit(2)])
    assert timeline.authors.tolist() == [0, 1, 0]
    assert timeline.author_number("GRACE@example.ORG") == 1
    assert timeline.author_number("nobody@example.org") == -1
    assert timeline.author_number("") == -1


def test_a_history_without_commits_has_an_answer_to_everything() -> None:
    timeline = Timeline([])
    assert (timeline.num_commits, timeline.num_lines) == (0, 0)
    assert timeline.lines_at(["a.py"], 0).tolist() == [0]
    assert timeline.spread(np.empty(0), 0).tolist() == [0]
    assert timeline.last_touch(0).tolist() == [-1]
    assert timeline.author_number("ada@example.org") == -1
    assert timeline.similar(timeline.messages, np.array([1]), 0).num_documents == 0


def history(size: int) -> list[Commit]:
    rng = np.random.default_rng(7)
    commits = []
    for number in range(size):
        paths = [f"{n}.py" for n in rng.choice(12, rng.integers(0, 4), replace=False)]
        words = " ".join(rng.choice(["lock", "read", "write", "cache", "retry"], 4))
        commits.append(commit(number, *paths, subject=words))
    return commits


@pytest.mark.parametrize("moment", [0, 1, 17, 39, 40])
def test_every_answer_is_the_same_whatever_comes_later(moment: int) -> None:
    def answers(commits: Sequence[Commit]) -> list[Any]:
        timeline = Timeline(commits)
        lines = timeline.lines_at([f"{n}.py" for n in range(12)], moment)
        known = lines < timeline.num_lines
        weights = np.linspace(0.1, 1, moment)
        terms = np.array(list(count_terms("lock the cache and retry")))
        hits = timeline.similar(timeline.messages, terms, moment)
        return [
            known.tolist(),
            lines[known].tolist(),
            timeline.spread(weights, moment)[lines].tolist(),
            timeline.last_touch(moment)[lines].tolist(),
            timeline.num_touches(moment),
            hits.num_documents,
            hits.idf.tolist(),
        ]

    assert answers(history(40)[:moment]) == answers(history(40))


def test_a_message_is_compared_without_links_and_trailers() -> None:
    noisy = commit(0, subject="Take locks (#12)", body="Signed-off-by: Ada <ada@example.org>")
    quiet = commit(1, subject="Take locks")
    timeline = Timeline([noisy, quiet])
    assert timeline.messages.lengths.tolist() == [2, 2]
    assert timeline.subjects.lengths.tolist() == [2, 2]


def test_names_that_are_no_utf8_are_names_like_others(world: World) -> None:
    path = b"caf\xe9/\xff.py".decode("utf-8", "surrogateescape")
    world.grow(("one", {path: "1\n"}), ("two", {path: "2\n"}))
    assert touches(Timeline(told(world)), path, 2) == 2


def test_a_task_sees_nothing_of_a_side_branch_that_was_written_after_it() -> None:
    """git lists a merged branch as one run, before or after the main line's commits."""
    first = commit(0, "a.py")
    late_branch = commit(9, "b.py", parent_ids=(first.commit_id,))
    main_line = commit(5, "c.py", parent_ids=(first.commit_id,))
    merge = commit(10, parent_ids=(main_line.commit_id, late_branch.commit_id))
    timeline = Timeline([first, late_branch, main_line, merge])
    assert timeline.position[main_line.commit_id] < timeline.position[late_branch.commit_id]


def test_a_clock_that_went_backwards_puts_no_commit_before_its_parent() -> None:
    first = commit(7, "a.py")
    second = commit(3, "a.py", parent_ids=(first.commit_id,))
    timeline = Timeline([first, second])
    assert timeline.position[first.commit_id] < timeline.position[second.commit_id]
