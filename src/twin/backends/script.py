"""What the scripted model says: the lines of a JSONL file.

Owns the file's format and its errors. A line is either an answer to what matches, or a recorded
conversation, whose assistant messages answer the user messages before them:

    {"match": "capital of France", "answer": "Paris.", "logprob": -0.01}
    {"match": "weather", "tool_calls": [{"name": "get_weather", "arguments": {"city": "Paris"}}]}
    {"match": "", "status": 429, "retry_after_s": 2, "times": 1}
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from twin.errors import ConfigError

Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=3_600_000)]


class ScriptedCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool that the scripted model asks for."""

    name: str
    arguments: dict[str, Any] | str = {}
    """An object, or any text: models also write what is no JSON."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line: what is answered to whom."""

    match: str = ""
    """Words or a regular expression to find in the last user message; empty matches all. The first
    line that matches answers."""
    answer: str = ""
    tool_calls: tuple[ScriptedCall, ...] = ()
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 200
    """Above 299 the answer is an error with `answer` as its message."""
    retry_after_s: float | None = None
    """Sent as `retry-after`."""
    delay_ms: Milliseconds = 0.0
    """Before the answer begins."""
    word_ms: Milliseconds = 0.0
    """Between two words of a stream."""
    logprob: Annotated[float, msgspec.Meta(le=0)] | None = None
    """Of each token, for callers who ask for them."""
    finish_reason: str = ""
    """Empty: `tool_calls` where there are some, else `stop`."""
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How often it answers before later lines do; empty means always."""

    def fits(self, text: str) -> bool:
        return self.match in text or re.search(self.match, text) is not None


class _RecordedMessage(msgspec.Struct, frozen=True):
    """A message of a recorded conversation; what else stands in it does not matter here."""

    role: str
    content: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()


class _Recording(msgspec.Struct, frozen=True):
    messages: tuple[_RecordedMessage, ...]


def load_script(path: Path) -> tuple[Entry, ...]:
    """Raises ConfigError with the file, the line and a cure."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"Cannot read the script {path}: {why}. Check `script`.") from error
    entries: list[Entry] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entries.extend(_entries(line))
        except (msgspec.MsgspecError, re.error, ValueError) as error:
            raise ConfigError(
                f"{path}:{number}: {error}. Correct that line; each is one JSON object with "
                "`match` and `answer`, or with `messages`."
            ) from error
    if not entries:
        raise ConfigError(f"The script {path} is empty. Write a line such as "
                          '{"match": "", "answer": "Hello."}.')  # fmt: skip
    return tuple(entries)


def _entries(line: str) -> Iterator[Entry]:
    if "messages" in msgspec.json.decode(line, type=dict[str, Any]):
        yield from _replayed(msgspec.json.decode(line, type=_Recording))
        return
    entry = msgspec.json.decode(line, type=Entry)
    re.compile(entry.match)
    yield entry


def _replayed(recording: _Recording) -> Iterator[Entry]:
    asked: str | None = None
    count = 0
    for message in recording.messages:
        if message.role == "user":
            asked = message.content or ""
        elif message.role == "assistant" and asked is not None:
            count += 1
            yield Entry(
                match=f"^{re.escape(asked)}$" if asked else "^$",
                answer=message.content or "",
                tool_calls=tuple(_recorded_call(call) for call in message.tool_calls),
                # Answers to one question come in the order in which they were recorded.
                times=1 if _is_asked_again(recording, asked) else None,
            )
    if not count:
        raise ValueError("no assistant message follows a user message")


def _is_asked_again(recording: _Recording, asked: str) -> bool:
    """Whether more than one assistant message answers this text."""
    answers, current = 0, None
    for message in recording.messages:
        if message.role == "user":
            current = message.content or ""
        elif message.role == "assistant" and current == asked:
            answers += 1
    return answers > 1


def _recorded_call(call: dict[str, Any]) -> ScriptedCall:
    inner = call.get("function", call)
    return msgspec.convert(
        {"name": inner.get("name"), "arguments": inner.get("arguments", {})}, ScriptedCall
    )
