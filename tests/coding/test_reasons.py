"""The reason for a rank is said in words that are true of the file."""

import numpy as np
import pytest

from twin.coding.corpus import Corpus, Scene
from twin.coding.digest import digest_of
from twin.coding.features import Moment, Question, features
from twin.coding.reasons import MOST, Reason, group_of, reasons_for
from twin.coding.timeline import Timeline
from twin.records import Commit, FileChange

FILES = {
    "pkg/retry.py": "RETRY_DELAY = 3\n\ndef wait_long(): ...\n",
    "pkg/lock.py": "from . import retry\n\nclass Lock: ...\n",
    "tests/test_retry.py": "from pkg import retry\n\nretry.wait_long()  # the delay\n",
}
QUERY = "Make the retry delay configurable in wait_long"


def commits(*changed: tuple[str, str]) -> list[Commit]:
    return [
        Commit(
            commit_id=f"{n:040x}",
            parent_ids=(),
            author_name="Ada",
            author_email="ada@example.org",
            author_time=n,
            commit_time=n,
            subject=subject,
            body="",
            changes=(FileChange(path=path, status="M"),),
        )
        for n, (subject, path) in enumerate(changed)
    ]


def reasons(
    path: str, contributions: dict[str, float], past: tuple[tuple[str, str], ...] = ()
) -> tuple[Reason, ...]:
    texts = FILES.values()
    scene = Scene(Corpus({text: digest_of(text.encode(), "python") for text in texts}), FILES)
    question = Question(QUERY)
    moment = Moment(position=len(past), time=10)
    names, values = features(question, scene, Timeline(commits(*past)), moment)
    file = scene.paths.index(path)
    row = dict(zip(names, map(float, values[file]), strict=True))
    return reasons_for(question, scene, file, contributions, row)


def text_of(kind: str, path: str, feature: str, **options: tuple[tuple[str, str], ...]) -> str:
    found = reasons(path, {feature: 1.0}, **options)
    assert [reason.kind for reason in found] in ([kind], [])
    return found[0].text if found else ""


def test_the_amounts_of_one_argument_are_summed_and_the_strongest_comes_first() -> None:
    found = reasons(
        "pkg/retry.py",
        {"text": 0.5, "window_rare": 0.25, "rank_text": -0.05, "path": 0.6, "symbols": 0.01},
    )
    assert [(reason.kind, reason.amount) for reason in found] == [
        ("text", 0.7), ("path", 0.6), ("names", 0.01),
    ]  # fmt: skip


def test_an_argument_against_the_file_is_no_reason_for_it() -> None:
    assert reasons("pkg/retry.py", {"text": -0.5, "path": 0.0}) == ()
    assert reasons("pkg/retry.py", {}) == ()


def test_at_most_three_reasons_are_given() -> None:
    every = dict.fromkeys(["text", "symbols", "path", "is_source", "importers", "folder_best"], 1.0)
    assert len(reasons("pkg/retry.py", every)) == MOST == 3


def test_words_are_quoted_as_the_task_writes_them() -> None:
    assert "'retry'" in text_of("text", "pkg/retry.py", "text")
    assert text_of("path", "pkg/retry.py", "path") == "its path says 'retry'"
    assert "'wait_long'" in text_of("names", "pkg/retry.py", "symbols_rare")
    assert text_of("path", "pkg/lock.py", "stem_letters") == ""  # nothing true can be said


def test_the_past_is_told_in_commits() -> None:
    past = (("Wait less", "pkg/retry.py"), ("Start", "pkg/lock.py"))
    assert (
        text_of("activity", "pkg/lock.py", "touched_5", past=past) == "changed in the last commit"
    )
    assert text_of("activity", "pkg/retry.py", "touched_5", past=past) == "changed 2 commits ago"
    assert text_of("activity", "pkg/retry.py", "touched_5") == ""


def test_similar_messages_are_a_reason_only_where_there_were_any() -> None:
    past = (("Make the retry delay longer", "pkg/retry.py"), ("Start", "pkg/lock.py"))
    said = text_of("messages", "pkg/retry.py", "message_near", past=past)
    assert said == "changed under similar messages"
    assert text_of("messages", "pkg/lock.py", "message_near", past=past) == ""


def test_importers_and_tests_are_counted_as_they_are() -> None:
    assert text_of("imports", "pkg/retry.py", "importers") == "imported by 1 source file"
    assert text_of("imports", "pkg/lock.py", "promise_of_imports") == "imports matching files"
    assert text_of("imports", "tests/test_retry.py", "imported") == "imports matching files"
    assert text_of("tests", "pkg/retry.py", "mirrored_test") == "its tests match"
    assert text_of("tests", "pkg/lock.py", "mirrored_test") == ""


def test_every_feature_belongs_to_an_argument_that_can_be_worded() -> None:
    scene = Scene(
        Corpus({text: digest_of(text.encode(), "python") for text in FILES.values()}), FILES
    )
    names, _ = features(Question(QUERY), scene, Timeline([]), Moment(position=0, time=0))
    kinds = {name: group_of(name) for name in names}
    assert set(kinds.values()) == {
        "names", "path", "text", "chain", "messages", "activity", "imports", "tests", "folder",
        "kind",
    }  # fmt: skip
    assert {name for name, kind in kinds.items() if kind == "kind"} == {
        name for name in names if name.startswith(("is_", "num_", "task_", "share_of"))
    } - {"task_chain"}


@pytest.mark.parametrize(
    ("feature", "kind"),
    [
        ("importing_tests", "tests"),
        ("promise_of_tests", "tests"),
        ("promise_of_importers", "imports"),
        ("names_compound", "names"),
        ("compound_text", "text"),
        ("rank_chain_long", "chain"),
        ("rank_since_touch_inverse", "activity"),
        ("subject_near", "messages"),
        ("path_letters", "path"),
        ("stem_prefixes", "path"),
    ],
)
def test_a_feature_counts_for_the_argument_that_it_speaks_of(feature: str, kind: str) -> None:
    assert group_of(feature) == kind


def test_names_that_are_no_utf8_are_worded_like_others() -> None:
    odd = b"caf\xe9/\xff retry.py".decode("utf-8", "surrogateescape")
    scene = Scene(Corpus({"x": digest_of(b"retry = 1\n", "python")}), {odd: "x"})
    names, values = features(Question(QUERY), scene, Timeline([]), Moment(position=0, time=0))
    row = dict(zip(names, map(float, np.asarray(values[0])), strict=True))
    (found,) = reasons_for(Question(QUERY), scene, 0, {"path": 1.0}, row)
    assert found.text == "its path says 'retry'"
