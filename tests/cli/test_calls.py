"""`twin calls`: found, shown, commented on and exported, with or without a running gateway."""

import io
import json
import sys
import time
from pathlib import Path

import pytest
from tests.store.recorded import (
    NOON,
    attempt,
    body,
    call,
    escalated,
    everything,
    feedback,
    payloads,
    reply,
)

from twin.cli.main import run
from twin.store.database import journal_folder, open_store
from twin.store.journal import Journal

STREAM = (
    b"".join(
        b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % piece
        for piece in (b"forty", b"-two")
    )
    + b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder, no repository, in which a gateway has recorded four calls."""
    streamed = attempt("small", response=STREAM, is_streamed=True, chunk_ms=(1.0, 2.0))
    with open_store(tmp_path) as store:
        store.calls.add(
            [
                call("first", request=body("what is six times seven"), attempts=(streamed,)),
                escalated("second", at=NOON + 1, request=body("six times seven again")),
                everything("third"),
                call("fourth", at=NOON + 2, outcome="failed", error="\x1b[31mboom", status=502),
            ]
        )
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], home: Path, *arguments: str, code: int = 0) -> str:
    assert run(["--repo", str(home), "calls", *arguments]) == code
    return capsys.readouterr().out


def asked(capsys: pytest.CaptureFixture[str], home: Path, *arguments: str, code: int = 0) -> dict:
    return json.loads(shown(capsys, home, *arguments, "--json", code=code))


def ids(found: dict) -> list[str]:
    return [each["call_id"] for each in found["calls"]]


def exported(
    capsys: pytest.CaptureFixture[str], home: Path, kind: str
) -> dict[str, dict[str, object]]:
    file = home / "out.jsonl"
    done = asked(capsys, home, "export", kind, str(file))
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert done == {"file": str(file), "num_rows": len(rows)}
    return {str(row["call_id"]): row for row in rows}


def test_without_a_word_the_newest_calls_are_listed(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert ids(asked(capsys, home)) == ["fourth", "second", "third", "first"]
    assert ids(asked(capsys, home, "search", "--limit", "1")) == ["fourth"]
    listed = shown(capsys, home, "--limit", "2")
    assert "fourth" in listed
    assert "--before second" in listed
    assert ids(asked(capsys, home, "--before", "second")) == ["third", "first"]


def test_words_and_filters_find_calls(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert ids(asked(capsys, home, "Six Times Seven")) == ["second", "first"]
    assert ids(asked(capsys, home, "forty-two")) == ["first"]
    assert ids(asked(capsys, home, "six times", "--escalated")) == ["second"]
    assert ids(asked(capsys, home, "--not-escalated")) == ["fourth", "first"]
    assert ids(asked(capsys, home, "--outcome", "failed")) == ["fourth"]
    assert ids(asked(capsys, home, "--since", "2025-11-21T12:00:01")) == ["fourth", "second"]
    assert ids(asked(capsys, home, "--until", "2025-11-21T14:00:01+02:00")) == ["third", "first"]
    assert ids(asked(capsys, home, "--key", "key_0123456789ab", "--task", "task")) == ["third"]
    assert "Other words or fewer filters" in shown(capsys, home, "no such words")


def test_what_is_still_in_the_journal_is_found_too(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    journal = Journal(journal_folder(home))
    journal.append(payloads([call("fresh", at=time.time())]))
    assert ids(asked(capsys, home, "--since", "1h")) == ["fresh"]
    assert asked(capsys, home, "show", "fresh")["call_id"] == "fresh"
    journal.close()


def test_a_call_is_shown_with_its_whole_story(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    asked(capsys, home, "feedback", "second", "--score", "1", "--comment", "well done")
    story = shown(capsys, home, "show", "second")
    for part in ("it refuses", "big", "user: six times seven again", "42", "well done", "1.000"):
        assert part in story
    assert "forty-two" in shown(capsys, home, "show", "first")
    assert "\x1b" not in shown(capsys, home, "show", "fourth")
    full = shown(capsys, home, "show", "third")
    for part in ("a.md:1-3", "coding", "router-1", "degraded"):
        assert part in full


def test_a_call_as_json_is_all_there_is(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    told = asked(capsys, home, "show", "second")
    assert told["request"]["messages"][0]["content"] == "six times seven again"
    assert [each["outcome"] for each in told["attempts"]] == ["escalated", "ok"]
    assert told["feedback"] == []
    assert asked(capsys, home, "--json", "show", "second") == told
    assert asked(capsys, home, "show", "third")["route"]["classification"]["type"] == "coding"
    error = asked(capsys, home, "show", "nowhere", code=2)["error"]
    assert error["kind"] == "UnknownCall"


def test_a_demonstration_can_come_from_stdin(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"it is 42")))
    noted = asked(capsys, home, "feedback", "first", "--demonstration", "-")
    assert noted["demonstration"] == "it is 42"
    assert ids(asked(capsys, home, "--feedback")) == ["first"]


def test_feedback_needs_something_to_say_and_a_call(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    error = asked(capsys, home, "feedback", "first", code=2)["error"]
    assert "--score, --comment or --demonstration" in error["message"]
    error = asked(capsys, home, "feedback", "nowhere", "--score", "1", code=2)["error"]
    assert error["kind"] == "UnknownCall"


def test_pairs_of_answers_are_exported(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    with open_store(home) as store:
        store.calls.add_feedback([feedback("first", demonstration="42", comment="in digits")])
    rows = exported(capsys, home, "--preferences")
    assert rows["second"]["prompt"] == [{"role": "user", "content": "six times seven again"}]
    assert rows["second"]["chosen"] == [{"role": "assistant", "content": "42"}]
    assert rows["second"]["rejected"] == [{"role": "assistant", "content": "I cannot."}]
    assert rows["first"]["chosen"] == [{"role": "assistant", "content": "42"}]
    assert rows["first"]["rejected"] == [{"role": "assistant", "content": "forty-two"}]
    assert rows["first"]["reason"] == "in digits"


def test_good_answers_are_exported_demonstrations_first(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    with open_store(home) as store:
        store.calls.add(
            [
                call("bad", attempts=(attempt(response=reply("wrong")),)),
                call("shown", attempts=(attempt(response=reply("41")),)),
            ]
        )
        store.calls.add_feedback(
            [
                feedback("bad", 1, score=0.0),
                feedback("shown", 2, score=0.0),
                feedback("shown", 3, demonstration="42"),
            ]
        )
    rows = exported(capsys, home, "--sft")
    assert rows["first"]["completion"] == [{"role": "assistant", "content": "forty-two"}]
    assert rows["shown"]["completion"] == [{"role": "assistant", "content": "42"}]
    assert not {"bad", "fourth"} & set(rows)


def test_an_export_must_say_of_what(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    error = asked(capsys, home, "export", str(home / "x.jsonl"), code=2)["error"]
    assert "--preferences or --sft" in error["message"]
    assert not (home / "x.jsonl").exists()


def test_a_moment_that_is_none_is_named(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    error = asked(capsys, home, "--since", "yesterday", code=2)["error"]
    assert "2h (ago), 2026-11-21" in error["message"]
