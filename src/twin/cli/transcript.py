"""Recorded bytes as people and training programs read them: texts, and JSONL in chat form.

Knows no dialect itself: what a request or an answer says is asked of `backends.dialects`.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from twin.errors import TwinError
from twin.records import Attempt, Call, DialectName, Feedback
from twin.store.readable import readable

if TYPE_CHECKING:
    from twin.store.database import Store

_GOOD = 0.5
"""Answers with a lower score are no examples."""

# A recorded body can be anything: an error page, half a stream, JSON of another shape.
_UNREADABLE = (TwinError, ValueError, LookupError, TypeError, AttributeError, RecursionError)

Row = dict[str, object]


def plain(record: msgspec.Struct) -> Row:
    """A record for `--json`: bodies as the JSON or the text that they are."""
    return {name: _plain(value) for name, value in msgspec.structs.asdict(record).items()}


def _plain(value: Any) -> object:
    if isinstance(value, bytes):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value.decode("utf-8", "replace")
    if isinstance(value, msgspec.Struct):
        return plain(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value


def text_of(dialect: DialectName, body: bytes) -> str:
    """What a request says: who said what, where it is a chat."""
    try:
        lines = [f"{m['role']}: {_content(m.get('content'))}" for m in _messages(dialect, body)]
    except _UNREADABLE:
        return readable(body)
    return "\n".join(lines) or readable(body)


def answer(call: Call) -> str:
    """What the client received."""
    if call.response is not None:
        return _answer_text(call.dialect, call.response, call.is_stream)
    return attempt_text(call.attempts[-1]) if call.attempts else ""


def attempt_text(attempt: Attempt) -> str:
    return _answer_text(attempt.dialect, attempt.response, attempt.is_streamed)


def preferences(store: "Store") -> Iterator[Row]:
    """Of each pair the question, the better answer and the worse one."""
    for pair in store.calls.preferences():
        call = store.calls.get(pair.call_id)
        if pair.chosen is None:
            said = store.calls.feedback(pair.call_id)
            chosen = next(f.demonstration for f in said if f.feedback_id == pair.feedback_id)
        else:
            chosen = attempt_text(call.attempts[pair.chosen - 1])
        rejected = attempt_text(call.attempts[pair.rejected - 1])
        if chosen and rejected:
            yield _row(
                call,
                chosen=[_assistant(chosen)],
                rejected=[_assistant(rejected)],
                reason=pair.reason,
            )


def sft(store: "Store") -> Iterator[Row]:
    """Each call with what should have been answered: the newest demonstration, else the answer
    unless somebody said that it is bad."""
    for call in store.calls.each():
        text = _good_answer(call, store.calls.feedback(call.call_id))
        if text:
            yield _row(call, completion=[_assistant(text)])


def _good_answer(call: Call, said: list[Feedback]) -> str:
    demonstrations = [each.demonstration for each in said if each.demonstration]
    if demonstrations:
        return demonstrations[-1]
    scores = [each.score for each in said if each.score is not None]
    if call.outcome != "ok" or (scores and scores[-1] < _GOOD):
        return ""
    return answer(call)


def _row(call: Call, **answers: object) -> Row:
    try:
        prompt = _messages(call.dialect, call.request)
    except _UNREADABLE:
        prompt = [{"role": "user", "content": readable(call.request)}]
    return {
        "prompt": prompt,
        **answers,
        "source": "gateway",
        "created_at": call.at,
        "content_hash": hashlib.sha256(call.request).hexdigest(),
        "call_id": call.call_id,
        "session": call.session,
        "model": call.model,
    }


def _assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


def _messages(dialect: DialectName, body: bytes) -> list[dict[str, Any]]:
    """Raises one of _UNREADABLE where it is no chat."""
    from twin.backends.dialects import translate_request

    if dialect != "chat":
        body = translate_request(dialect, "chat", body)
    decoded = json.loads(body)
    messages = decoded.get("messages") if isinstance(decoded, dict) else None
    if not isinstance(messages, list):
        raise ValueError("no messages")
    return messages


def _content(content: object) -> str:
    return content if isinstance(content, str) else readable(json.dumps(content).encode())


def _answer_text(dialect: DialectName, body: bytes, is_stream: bool) -> str:
    from twin.backends.dialects import answer_of, whole_from_stream

    if not body:
        return ""
    try:
        whole = json.dumps(whole_from_stream(dialect, body)).encode() if is_stream else body
        found = answer_of(dialect, whole)
    except _UNREADABLE:
        return readable(body)
    calls = [f"{call.name}({call.arguments})" for call in found.tool_calls]
    return "\n".join(part for part in (found.text, *calls) if part)
