"""The scripted model that ships with the package: answers at once, always the same, for nothing.

Owns what it says. Without a script it says what it is, repeats the question and how to add a real
model; with one it plays the model that a demonstration or a test needs, faults included.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import msgspec

from twin.backends.backend import Ask, Reply
from twin.backends.dialects import (
    error_body,
    stream_translator,
    translate_request,
    translate_response,
)
from twin.backends.hashed_vectors import embeddings
from twin.backends.script import Entry
from twin.backends.scripted_answer import Said
from twin.errors import BackendTimeout, BadRequest, Untranslatable
from twin.records import DialectName

SPOKEN: frozenset[DialectName] = frozenset(
    ("chat", "completions", "embeddings", "responses", "messages")
)
DEMO = """I am the scripted model that comes with Cognitive Twin; no real model has answered.
You asked: {asked}
To add a real one, put this into twin.toml and start `twin serve` again:

[models.mine]
provider = "ollama"
model = "qwen3:4b"
role = "triage"
"""
SHOWN_CHARS = 400
"""Of a question that is repeated."""


class ScriptedReply:
    """A reply that was ready from the start; its pieces may be spaced in time."""

    def __init__(
        self, status: int, headers: list[tuple[bytes, bytes]], pieces: Sequence[bytes], gap_s: float
    ) -> None:
        self.status = status
        self.headers = headers
        self._pieces = pieces
        self._gap_s = gap_s
        self._is_closed = False

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for place, piece in enumerate(self._pieces):
            if place and self._gap_s:
                await asyncio.sleep(self._gap_s)
            if self._is_closed:
                return
            yield piece

    async def close(self) -> None:
        self._is_closed = True


class ScriptedBackend:
    """Answers from a script; where no line matches, and without one, with the demonstration."""

    def __init__(
        self,
        entries: Iterable[Entry] = (),
        *,
        dialects: Iterable[DialectName] = SPOKEN,
        word_s: float = 0.0,
    ) -> None:
        """`word_s`: seconds between two words of a stream, where the script says nothing else."""
        self.dialects = frozenset(dialects)
        self._entries = [(entry, [entry.times]) for entry in entries]
        self._word_s = word_s
        self.num_asked = 0

    async def ask(self, ask: Ask, secret: str | None) -> Reply:
        """Raises BackendTimeout where the script waits longer than the caller."""
        self.num_asked += 1
        try:
            return await self._answer(ask)
        except (BadRequest, Untranslatable, msgspec.DecodeError) as error:
            message = str(error)
        except (TypeError, AttributeError, LookupError, ValueError):
            message = f"A field of the request is not as `{ask.dialect}` documents it; correct it."
        return _error(ask.dialect, Entry(status=400, answer=message))

    async def _answer(self, ask: Ask) -> Reply:
        if ask.dialect == "embeddings":
            return _json(200, embeddings(msgspec.json.decode(ask.body, type=dict[str, Any])))
        body = translate_request(ask.dialect, "chat", ask.body)
        request = msgspec.json.decode(body, type=dict[str, Any])
        question = _question(request)
        entry = self._entry(question) or Entry(answer=_demonstration(question, request))
        said = Said.to(entry, request, body)
        if entry.delay_ms:
            await _wait(entry.delay_ms / 1000, ask.timeouts.first_byte_s)
        if entry.status >= 300:
            return _error(ask.dialect, entry)
        if ask.stream:
            return self._stream(ask.dialect, entry, said)
        whole = translate_response("chat", ask.dialect, said.whole(), said.model)
        return _json(entry.status, whole)

    async def is_alive(self, secret: str | None = None) -> bool:
        return True

    async def close(self) -> None:
        """Nothing is its own."""

    def _stream(self, dialect: DialectName, entry: Entry, said: Said) -> ScriptedReply:
        translator = stream_translator(
            "chat", dialect, said.model, include_usage=said.reports_usage
        )
        # Of these two, usage is always a part.
        has_usage = said.reports_usage or dialect in ("messages", "responses")
        events = said.events(has_usage=has_usage)
        pieces = [*(translator.feed(event) for event in events), translator.end()]
        return ScriptedReply(
            entry.status,
            [(b"content-type", b"text/event-stream")],
            [piece for piece in pieces if piece],
            entry.word_ms / 1000 or self._word_s,
        )

    def _entry(self, question: str) -> Entry | None:
        for entry, left in self._entries:
            if left[0] != 0 and entry.fits(question):
                if left[0] is not None:
                    left[0] -= 1
                return entry
        return None


def _json(status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> ScriptedReply:
    return ScriptedReply(status, [(b"content-type", b"application/json"), *headers], (body,), 0.0)


def _error(dialect: DialectName, entry: Entry) -> ScriptedReply:
    message = entry.answer or f"The script answers with status {entry.status}."
    retry = entry.retry_after_s
    return _json(
        entry.status,
        error_body(dialect, entry.status, message, "scripted", ""),
        [] if retry is None else [(b"retry-after", f"{retry:g}".encode())],
    )


async def _wait(seconds: float, at_most_s: float) -> None:
    await asyncio.sleep(min(seconds, at_most_s))
    if seconds > at_most_s:
        raise BackendTimeout(
            f"The script waits {seconds:g} s before it answers, longer than {at_most_s:g} s. "
            "Lower `delay_ms`, or raise `first_byte_s`."
        )


def _question(request: dict[str, Any]) -> str:
    """The text of the last user message; where a tool has answered it, what the tool said, so that
    a script that calls a tool does not call it for ever."""
    for message in reversed(request.get("messages") or ()):
        if message.get("role") in ("user", "tool"):
            content = message.get("content")
            if isinstance(content, str):
                return content
            return "\n".join(str(part.get("text", "")) for part in content or ())
    return ""


def _demonstration(question: str, request: dict[str, Any]) -> str:
    asked = question.strip()
    if len(asked) > SHOWN_CHARS:
        asked = f"{asked[:SHOWN_CHARS]}... ({len(question)} characters)"
    text = DEMO.format(asked=asked or "(nothing)")
    if (request.get("response_format") or {}).get("type") in ("json_object", "json_schema"):
        return msgspec.json.encode({"answer": text}).decode()
    return text
