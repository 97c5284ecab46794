"""A row of features tells what could be known when its task was asked, and nothing of what came
later."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from twin.coding.corpus import Corpus, Scene
from twin.coding.digest import digest_of
from twin.coding.features import Matrix, Moment, Question, features
from twin.coding.languages import language_of
from twin.coding.text import hash_of, whole
from twin.coding.timeline import Timeline
from twin.records import Commit, FileChange

FILES = {
    "pkg/__init__.py": '"""Locks that many may hold."""\nfrom .write_locks import WriteLock\n',
    "pkg/write_locks.py": "class WriteLock:\n    '''Held by one.'''\n    def take(self): ...\n",
    "pkg/readers.py": "from .write_locks import WriteLock\n\ndef read(): WriteLock().take()\n",
    "pkg/retry.py": "import time\n\nRETRY_DELAY = 3\n\ndef wait(): time.sleep(RETRY_DELAY)\n",
    "tests/test_retry.py": "from pkg.retry import wait\n\ndef test_wait(): wait()\n",
    "tests/test_write_locks.py": "from pkg import WriteLock\n",
    "docs/conf.py": "project = 'locks'\n",
}
WORDS = ("lock", "take", "retry", "delay", "reader", "wait", "write", "configurable", "fix")
SOURCES = [path for path in FILES if path.startswith("pkg/")]


def history(size: int = 60) -> list[Commit]:
    """Commits that change one to three files under messages of a few words, by three people."""
    rng = np.random.default_rng(5)
    commits = []
    for number in range(size):
        paths = rng.choice(list(FILES), rng.integers(1, 4), replace=False)
        changes = [FileChange(path=str(path), status="M") for path in sorted(paths)]
        if number == 0:
            changes = [FileChange(path=path, status="A") for path in FILES if "readers" not in path]
        if number == 20:
            changes = [FileChange(path="pkg/old_readers.py", status="A")]
        if number == 25:
            changes = [FileChange(path="pkg/readers.py", old_path="pkg/old_readers.py", status="R")]
        commits.append(
            Commit(
                commit_id=f"{number:040x}",
                parent_ids=(f"{number - 1:040x}",) if number else (),
                author_name="someone",
                author_email=f"{rng.integers(3)}@example.org",
                author_time=1_700_000_000 + 600 * number,
                commit_time=1_700_000_000 + 600 * number,
                subject=" ".join(rng.choice(WORDS, 3)),
                body=" ".join(rng.choice(WORDS, 5)) if number % 3 else "",
                changes=tuple(changes),
            )
        )
    return commits


def corpus_of(*trees: dict[str, str]) -> Corpus:
    """The contents stand for their own blob ids."""
    return Corpus(
        {
            text: digest_of(text.encode(), language_of(path) or "")
            for files in trees
            for path, text in files.items()
        }
    )


@dataclass(frozen=True)
class Rows:
    """Rows with their names, to be asked for one figure."""

    names: tuple[str, ...]
    paths: list[str]
    values: Matrix

    def of(self, path: str, name: str) -> float:
        return float(self.values[self.paths.index(path), self.names.index(name)])

    def best(self, name: str) -> str:
        return self.paths[int(self.values[:, self.names.index(name)].argmax())]


def rows(
    query: str,
    commits: Sequence[Commit] = (),
    position: int | None = None,
    *,
    files: dict[str, str] | None = None,
    corpus: Corpus | None = None,
    author: int = -1,
) -> Rows:
    chosen = FILES if files is None else files
    at = len(commits) if position is None else position
    scene = Scene(corpus or corpus_of(chosen), chosen)
    moment = Moment(position=at, time=1_700_000_000 + 600 * at, author=author)
    names, values = features(Question(query), scene, Timeline(commits), moment)
    return Rows(names, scene.paths, values)


QUERY = "Make the retry delay configurable\n\nThe WriteLock waits too long for readers."


# Nothing of what came later


@pytest.mark.parametrize("position", [0, 1, 19, 24, 25, 26, 59])
def test_commits_that_come_later_change_no_row(position: int) -> None:
    commits = history()
    then = rows(QUERY, commits[:position], position)
    now = rows(QUERY, commits, position)
    assert_array_equal(then.values, now.values)


@pytest.mark.parametrize("position", [1, 24, 25, 40, 59])
def test_the_tasks_own_commit_changes_no_row_of_it(position: int) -> None:
    commits = history()
    before = rows(QUERY, commits, position)
    own = replace(
        commits[position],
        subject=QUERY,
        body="write_locks " * 50,
        commit_time=0,
        changes=tuple(
            FileChange(path=f"new/{path}", old_path=path, status="R") for path in sorted(FILES)
        ),
    )
    altered = [*commits[:position], own, *commits[position + 1 :]]
    assert_array_equal(rows(QUERY, altered, position).values, before.values)


def test_contents_that_come_later_change_no_row() -> None:
    commits = history()
    later = [
        {path: f"# retry delay {n}\n{text}" * n for path, text in FILES.items()}
        for n in range(1, 5)
    ]
    before = rows(QUERY, commits, 30)
    for corpus in (corpus_of(FILES, *later), corpus_of(*later, FILES)):
        assert_array_equal(rows(QUERY, commits, 30, corpus=corpus).values, before.values)


def test_tasks_asked_in_any_order_of_one_timeline_get_the_same_rows() -> None:
    commits, corpus = history(), corpus_of(FILES)
    timeline, scene = Timeline(commits), Scene(corpus, FILES)

    def ask(position: int) -> Matrix:
        return features(Question(QUERY), scene, timeline, Moment(position=position, time=0))[1]

    forwards = [ask(position) for position in range(0, 60, 7)]
    backwards = [ask(position) for position in reversed(range(0, 60, 7))]
    for one, other in zip(forwards, reversed(backwards), strict=True):
        assert_array_equal(one, other)


@settings(max_examples=25, deadline=None)
@given(
    position=st.integers(0, 59),
    query=st.lists(st.sampled_from([*WORDS, "WriteLock", "pkg"]), min_size=1).map(" ".join),
)
def test_no_task_at_any_moment_sees_later_commits(position: int, query: str) -> None:
    commits = history()
    assert_array_equal(
        rows(query, commits[:position], position).values, rows(query, commits, position).values
    )


# Always numbers

HOSTILE = b"caf\xe9/new\nline \xff.py".decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    "files",
    [
        FILES,
        {"only.py": "x = 1\n"},
        {"only.py": ""},
        {"tests/test_only.py": "x = 1\n"},
        {HOSTILE: "def wait(): ...\n", "a/__init__.py": "", "__init__.py": "", "a.b/index.js": ""},
        {f"pkg/m{n}.py": "x = 1\n" for n in range(40)},
    ],
    ids=["usual", "one file", "one empty file", "no source", "odd names", "all alike"],
)
@pytest.mark.parametrize("query", [QUERY, "zzz qqq", "...", "", "the", "delay " * 3000, HOSTILE])
@pytest.mark.parametrize("position", [0, 1, 60])
def test_every_value_is_a_finite_number(files: dict[str, str], query: str, position: int) -> None:
    found = rows(query, history(), position, files=files)
    assert found.values.shape == (len(files), len(found.names))
    bad = [n for at, n in enumerate(found.names) if not np.isfinite(found.values[:, at]).all()]
    assert bad == []
    assert found.values.dtype == np.float32


def test_the_columns_are_the_same_for_every_task_and_no_two_have_one_name() -> None:
    usual = rows(QUERY, history()).names
    assert rows("...", (), files={"only.py": ""}).names == usual
    assert len(set(usual)) == len(usual)


def test_every_column_tells_some_files_or_tasks_apart() -> None:
    commits = history()
    asked = [rows(QUERY, commits, at, author=0).values for at in (5, 30, 60)]
    asked.append(rows("reader: take locks", commits, 60).values)
    asked.append(
        rows("fix_retry in WriteLock", commits[:40], files=dict(list(FILES.items())[:5])).values
    )
    names = rows(QUERY).names
    spread = np.concatenate(asked).std(axis=0)
    assert [name for name, value in zip(names, spread, strict=True) if value == 0] == []


# What the columns say


def test_the_file_whose_words_and_names_the_task_has_is_best_by_them() -> None:
    found = rows("Make the retry delay configurable")
    for name in ("text", "window", "symbols", "path", "stem_share", "stem_named"):
        assert found.best(name) == "pkg/retry.py", name
    assert found.of("pkg/retry.py", "rank_text") == 0


def test_two_neighbouring_words_find_the_name_that_joins_them() -> None:
    found = rows("Release write locks early")
    assert found.best("compound_text") in (
        "pkg/write_locks.py",
        "pkg/readers.py",
        "pkg/__init__.py",
    )
    assert whole("writelock") in Question("a write lock held").compounds[0].tolist()
    terms, weights = Question("the WriteLock and the reader").names
    by_term = dict(zip(terms.tolist(), weights.tolist(), strict=True))
    assert by_term[hash_of("writelock")] == 2 * by_term[hash_of("reader")]


def test_a_file_that_changed_under_a_similar_message_is_nearer() -> None:
    (template, *_) = history(1)
    commits = [
        replace(
            template,
            commit_id=f"{n:040x}",
            parent_ids=("0" * 40,),
            subject=subject,
            body="",
            changes=(FileChange(path=path, status="M"),),
        )
        for n, (subject, path) in enumerate(
            [("Wait for quiet", "pkg/retry.py"), ("Other things", "pkg/readers.py")] * 3
        )
    ]
    found = rows("wait until quiet", commits)
    for name in ("message_near", "subject_near", "rare_near", "message_best", "chain_long"):
        assert found.best(name) == "pkg/retry.py", name
    assert found.best("touched_5") == "pkg/readers.py"  # it changed last
    assert found.of("pkg/readers.py", "since_touch") < found.of("pkg/retry.py", "since_touch")
    assert found.of("docs/conf.py", "since_touch_inverse") == 0


def test_the_files_of_the_one_who_asks_count_for_that_one_alone() -> None:
    commits = history()
    timeline = Timeline(commits)
    known = timeline.author_number(commits[3].author_email)
    ours, nobodys = rows(QUERY, commits, author=known), rows(QUERY, commits, author=-1)
    at = ours.names.index("touched_by_author")
    assert ours.values[:, at].max() == 1
    assert nobodys.values[:, at].max() == 0
    rest = [column for column in range(len(ours.names)) if column != at]
    assert_array_equal(ours.values[:, rest], nobodys.values[:, rest])


def test_a_test_file_speaks_for_the_source_that_it_mirrors_and_never_ranks_before_it() -> None:
    found = rows("wait in retry")
    assert found.best("mirrored_test") == "pkg/retry.py"
    sources = [found.of(path, "rank_text") for path in SOURCES]
    assert max(sources) < found.of("tests/test_retry.py", "rank_text")
    assert [found.of(path, "is_source") for path in found.paths] == [
        float(path in SOURCES) for path in found.paths
    ]
