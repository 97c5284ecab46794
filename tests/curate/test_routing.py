"""From recorded calls and from files to examples: what counts as a good answer, and why."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from twin.curate.routing import Curated, from_calls, read_examples
from twin.errors import UsageError
from twin.records import Attempt, Call, Feedback, RoutingExample
from twin.store.database import open_store

NOW = 1_700_000_000.0
SMALL, BIG = frozenset({"little"}), frozenset({"large"})


def body(text: str) -> bytes:
    return json.dumps({"model": "twin", "messages": [{"role": "user", "content": text}]}).encode()


def call(
    number: int,
    text: str = "",
    *attempts: tuple[str, str],
    at: float | None = None,
    confidence: float | None = None,
    **more: Any,
) -> Call:
    tried = tuple(
        Attempt(model=model, outcome=outcome, confidence=confidence)  # type: ignore[arg-type]
        for model, outcome in attempts or (("little", "ok"),)
    )
    given: dict[str, Any] = {
        "call_id": f"call_{number:032x}",
        "at": NOW + 3600 * number if at is None else at,
        "dialect": "chat",
        "outcome": "ok",
        "asked_model": "twin",
        "model": tried[-1].model,
        "session": "s1",
        "request": body(text or f"question number {number}"),
        "attempts": tried,
        **more,
    }
    return Call(**given)


def said(number: int, score: float | None, *, at: float = NOW, **more: Any) -> Feedback:
    return Feedback(
        feedback_id=f"fb_{number:032x}",
        call_id=f"call_{number:032x}",
        at=at,
        score=score,
        **more,
    )


def curated(calls: list[Call], *feedback: Feedback) -> Curated:
    return from_calls(
        calls,
        lambda call_id: [one for one in feedback if one.call_id == call_id],
        small=SMALL,
        big=BIG,
    )


def only(calls: list[Call], *feedback: Feedback) -> RoutingExample:
    found = curated(calls, *feedback)
    assert len(found.examples) == 1, found
    return found.examples[0]


def test_an_answer_that_nobody_complained_about_was_good() -> None:
    found = only([call(1)])
    assert (found.weak, found.strong, found.reason) == (1.0, None, "accepted")
    assert found.question.text == "question number 1"
    assert (found.at, found.group, found.source) == (NOW + 3600, "s1", f"call_{1:032x}")


def test_feedback_is_believed_over_silence() -> None:
    assert only([call(1)], said(1, 0.2)).weak == 0.2
    assert only([call(1)], said(1, 0.2)).reason == "feedback"


def test_the_latest_score_counts() -> None:
    assert only([call(1)], said(1, 0.9, at=NOW + 9), said(1, 0.1, at=NOW + 5)).weak == 0.9


def test_a_comment_alone_is_no_score_and_a_demonstration_is_a_bad_one() -> None:
    assert only([call(1)], said(1, None, comment="hm")).weak == 1.0
    assert only([call(1)], said(1, None, demonstration="better so")).weak == 0.0


def test_an_escalated_answer_was_not_good_and_the_big_one_was() -> None:
    found = only([call(1, "", ("little", "escalated"), ("large", "ok"))])
    assert (found.weak, found.strong, found.reason) == (0.0, 1.0, "escalated")


def test_the_doubt_of_the_answer_check_is_kept_as_it_was() -> None:
    tried = ("little", "escalated"), ("large", "ok")
    assert only([call(1, "", *tried, confidence=0.3)]).weak == 0.3
    assert only([call(1, "", *tried, confidence=0.9)]).weak == 0.5


def test_after_an_escalation_feedback_is_about_the_big_answer() -> None:
    found = only([call(1, "", ("little", "escalated"), ("large", "ok"))], said(1, 0.4))
    assert (found.weak, found.strong) == (0.0, 0.4)


def test_what_went_straight_to_the_big_model_says_nothing_of_the_small_one() -> None:
    found = only([call(1, "", ("large", "ok"))])
    assert (found.weak, found.strong) == (None, 1.0)


def test_a_failed_attempt_is_no_answer() -> None:
    found = only([call(1, "", ("little", "failed"), ("large", "ok"))])
    assert (found.weak, found.strong) == (None, 1.0)


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (call(1, outcome="failed"), "call failed"),
        (call(1, outcome="cancelled"), "call cancelled"),
        (call(1, is_degraded=True), "call degraded"),
        (call(1, "", ("other", "ok")), "answered outside the tiers"),
        (call(1, request=b"not json"), "unreadable request"),
        (call(1, dialect="embeddings"), "no question"),
        (call(1, "  "), "no question"),
    ],
)
def test_what_is_left_out_is_counted_with_its_reason(one: Call, why: str) -> None:
    assert curated([one]) == Curated(examples=(), dropped={why: 1})


def test_who_asks_the_same_again_soon_was_not_served() -> None:
    first, second = call(1, "why?", at=NOW), call(2, "why?", at=NOW + 60)
    found = curated([first, second])
    assert [(one.weak, one.reason) for one in found.examples] == [(0.0, "asked again")]
    assert found.dropped == {"asked before": 1}


@pytest.mark.parametrize("second", [{"at": NOW + 7200}, {"at": NOW + 60, "session": "s2"}])
def test_later_or_elsewhere_it_is_a_question_of_its_own(second: dict[str, Any]) -> None:
    found = only([call(1, "why?", at=NOW), call(2, "why?", **second)])
    assert (found.weak, found.source) == (1.0, f"call_{2:032x}")


def test_of_the_same_request_the_best_known_outcome_stays() -> None:
    calls = [call(1, "why?"), call(2, "why?"), call(3, "why?")]
    assert only(calls, said(2, 0.1)).source == f"call_{2:032x}"


def test_examples_come_oldest_first_whatever_the_order_of_calls() -> None:
    found = curated([call(3), call(1), call(2)]).examples
    assert [one.at for one in found] == sorted(one.at or 0 for one in found)


def test_a_real_store_gives_the_same(tmp_path: Path) -> None:
    calls = [call(1), call(2, "", ("little", "escalated"), ("large", "ok"))]
    with open_store(tmp_path) as store:
        store.calls.add(calls)
        store.calls.add_feedback([said(1, 0.25)])
        found = from_calls(store.calls.each(), store.calls.feedback, small=SMALL, big=BIG)
    assert [(one.weak, one.strong) for one in found.examples] == [(0.25, None), (0.0, 1.0)]


def written(path: Path, *rows: dict[str, Any] | str) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def row(prompt: str = "why?", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "weak_correct": True, **more}


def test_a_file_gives_its_lines_with_provenance(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.jsonl",
        row("one", strong_correct=False, subject="law", system="Be brief."),
        row("two", weak_correct=0.25),
    )
    first, second = read_examples(path).examples
    assert (first.weak, first.strong, first.group, first.source) == (1.0, 0.0, "law", "a.jsonl:1")
    assert first.question.system == "Be brief."
    assert (second.weak, second.strong, second.at, second.reason) == (0.25, None, None, "measured")


def test_gzip_is_read_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    path.write_bytes(gzip.compress(json.dumps(row()).encode()))
    assert len(read_examples(path).examples) == 1


def test_lines_with_times_are_put_in_order(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.jsonl",
        row("late", time="2026-01-02T00:00:00Z"),
        row("early", time="2026-01-01"),
        row("first", time=0),
    )
    found = read_examples(path).examples
    assert [one.question.text for one in found] == ["first", "early", "late"]
    assert (found[2].at or 0) - (found[1].at or 0) == 86_400


def test_the_same_prompt_counts_once(tmp_path: Path) -> None:
    found = read_examples(written(tmp_path / "a.jsonl", row("a b"), row("a  b"), "", row("c")))
    assert len(found.examples) == 2
    assert found.dropped == {"repeated": 1}


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "{}",
        '{"prompt": 3, "weak_correct": true}',
        '{"prompt": "x", "weak_correct": "yes"}',
        '{"prompt": "x", "weak_correct": 2}',
        '{"prompt": "x", "weak_correct": NaN}',
        '{"prompt": "x", "weak_correct": true, "time": "yesterday"}',
        "[" * 100_000,
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str) -> None:
    path = written(tmp_path / "a.jsonl", row(), line)
    with pytest.raises(UsageError, match=r"a\.jsonl:2"):
        read_examples(path)


@pytest.mark.parametrize("content", [b"\x1f\x8bnonsense", b"\xff\xfe\x00", None])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read"):
        read_examples(path)
