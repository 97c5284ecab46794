"""The scripted model that ships with the package: answers at once, always the same, for nothing.

Owns what it says in the `chat` dialect; `dialects` turns that into the others. Without a script it
says what it is, repeats the question and how to add a real model; with one it plays the model that
a demonstration or a test needs, faults included.
"""

import asyncio
import base64
import hashlib
import re
import struct
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import msgspec

from twin.backends.backend import Ask, Reply
from twin.backends.hashed_vectors import NUM_DIMENSIONS, hashed_vector
from twin.backends.script import Entry
from twin.errors import BackendTimeout
from twin.records import DialectName

NATIVE: frozenset[DialectName] = frozenset(("chat", "completions", "embeddings"))
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
_TOKEN = re.compile(r"\s*\S+|\s+")


class ScriptedReply:
    """A reply that was ready from the start; its pieces may be spaced in time."""

    def __init__(
        self, status: int, headers: list[tuple[bytes, bytes]], pieces: Sequence[bytes], gap_s: float
    ) -> None:
        self.status = status
        self.headers = headers
        self._pieces = pieces
        self._gap_s = gap_s

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for place, piece in enumerate(self._pieces):
            if place and self._gap_s:
                await asyncio.sleep(self._gap_s)
            yield piece

    async def close(self) -> None:
        self._pieces = ()


class ScriptedBackend:
    """Answers from a script; where no line matches, and without one, with the demonstration."""

    def __init__(
        self,
        entries: Iterable[Entry] = (),
        *,
        dialects: Iterable[DialectName] = NATIVE,
        word_s: float = 0.0,
    ) -> None:
        """`word_s`: seconds between two words of a stream, where the script says nothing else."""
        self.dialects = NATIVE & frozenset(dialects)
        self._entries = [(entry, [entry.times]) for entry in entries]
        self._word_s = word_s
        self.asked: int = 0
        """How many requests it has answered."""

    async def ask(self, ask: Ask, secret: str | None) -> Reply:
        """Raises BackendTimeout where the script waits longer than the caller."""
        self.asked += 1
        request = msgspec.json.decode(ask.body, type=dict[str, Any])
        if ask.dialect == "embeddings":
            return _json_reply(200, _embeddings(request))
        question = _question(request)
        entry = self._entry(question) or Entry(answer=_demonstration(question, request))
        if entry.delay_ms:
            await _wait(entry.delay_ms / 1000, ask.timeouts.first_byte_s)
        if entry.status >= 300:
            return _error(entry)
        answer = _Said.of(entry, request, ask.body)
        if not ask.stream:
            return _json_reply(entry.status, answer.whole(ask.dialect))
        gap_s = entry.word_ms / 1000 or self._word_s
        return ScriptedReply(
            entry.status,
            [(b"content-type", b"text/event-stream")],
            [b"data: %s\n\n" % chunk for chunk in answer.chunks(ask.dialect)],
            gap_s,
        )

    async def is_alive(self, secret: str | None = None) -> bool:
        return True

    async def close(self) -> None:
        """Nothing is its own."""

    def _entry(self, question: str) -> Entry | None:
        for entry, left in self._entries:
            if left[0] != 0 and entry.fits(question):
                if left[0] is not None:
                    left[0] -= 1
                return entry
        return None


class _Said(msgspec.Struct, frozen=True, kw_only=True):
    """What is said to one request, before it is cut into a shape."""

    identity: str
    model: str
    tokens: list[str]
    calls: list[dict[str, Any]]
    finish_reason: str
    logprob: float | None
    num_prompt_tokens: int
    reports_usage: bool

    @classmethod
    def of(cls, entry: Entry, request: dict[str, Any], body: bytes) -> "_Said":
        identity = hashlib.blake2b(body, digest_size=12).hexdigest()
        limit = request.get("max_completion_tokens") or request.get("max_tokens")
        tokens = _TOKEN.findall(entry.answer)
        is_cut = isinstance(limit, int) and len(tokens) > limit
        reason = entry.finish_reason or ("tool_calls" if entry.tool_calls else "stop")
        return cls(
            identity=identity,
            model=str(request.get("model", "scripted")),
            tokens=tokens[:limit] if is_cut else tokens,
            calls=[
                {
                    "id": f"call_{identity[:16]}{place}",
                    "type": "function",
                    "function": {
                        "name": call.name,
                        "arguments": call.arguments
                        if isinstance(call.arguments, str)
                        else msgspec.json.encode(call.arguments).decode(),
                    },
                }
                for place, call in enumerate(entry.tool_calls)
            ],
            finish_reason="length" if is_cut else reason,
            logprob=(-0.01 if entry.logprob is None else entry.logprob)
            if request.get("logprobs")
            else None,
            num_prompt_tokens=len(body) // 4,
            reports_usage=bool((request.get("stream_options") or {}).get("include_usage")),
        )

    @property
    def usage(self) -> dict[str, int]:
        num_completion = len(self.tokens) + 8 * len(self.calls)
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": num_completion,
            "total_tokens": self.num_prompt_tokens + num_completion,
        }

    def whole(self, dialect: DialectName) -> bytes:
        text = "".join(self.tokens)
        if dialect == "completions":
            choice: dict[str, Any] = {"index": 0, "text": text, "logprobs": None}
        else:
            message: dict[str, Any] = {"role": "assistant", "content": text or None}
            if self.calls:
                message["tool_calls"] = self.calls
            else:
                message["content"] = text
            choice = {"index": 0, "message": message, "logprobs": self._logprobs(self.tokens)}
        choice["finish_reason"] = self.finish_reason
        return msgspec.json.encode({**self._top(dialect, ""), "choices": [choice],
                                    "usage": self.usage})  # fmt: skip

    def chunks(self, dialect: DialectName) -> list[bytes]:
        """The data of each event of the stream, the closing mark included."""
        chunks = []
        if dialect == "completions":
            deltas: list[dict[str, Any]] = [
                {"index": 0, "text": token, "logprobs": None} for token in self.tokens
            ]
            end: dict[str, Any] = {"index": 0, "text": "", "logprobs": None}
        else:
            deltas = [_delta({"role": "assistant", "content": ""}, None)]
            deltas += [_delta({"content": token}, self._logprobs([token])) for token in self.tokens]
            deltas += [
                _delta({"tool_calls": [{"index": place, **call}]}, None)
                for place, call in enumerate(self.calls)
            ]
            end = _delta({}, None)
        end["finish_reason"] = self.finish_reason
        top = self._top(dialect, ".chunk" if dialect == "chat" else "")
        for choice in (*deltas, end):
            chunks.append({**top, "choices": [{"finish_reason": None, **choice}]})
        if self.reports_usage:
            chunks.append({**top, "choices": [], "usage": self.usage})
        return [*(msgspec.json.encode(chunk) for chunk in chunks), b"[DONE]"]

    def _top(self, dialect: DialectName, suffix: str) -> dict[str, Any]:
        is_chat = dialect == "chat"
        return {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{self.identity}",
            "object": ("chat.completion" if is_chat else "text_completion") + suffix,
            "created": int(time.time()),
            "model": self.model,
        }

    def _logprobs(self, tokens: list[str]) -> dict[str, Any] | None:
        if self.logprob is None:
            return None
        return {
            "content": [
                {
                    "token": token,
                    "logprob": self.logprob,
                    "bytes": list(token.encode()),
                    "top_logprobs": [],
                }
                for token in tokens
            ],
            "refusal": None,
        }


def _delta(delta: dict[str, Any], logprobs: dict[str, Any] | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": logprobs}


def _json_reply(
    status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()
) -> ScriptedReply:
    return ScriptedReply(status, [(b"content-type", b"application/json"), *headers], (body,), 0.0)


def _error(entry: Entry) -> ScriptedReply:
    message = entry.answer or f"The script answers with status {entry.status}."
    body = {"error": {"message": message, "type": "scripted", "param": None, "code": None}}
    retry = entry.retry_after_s
    headers = [] if retry is None else [(b"retry-after", b"%g" % retry)]
    return _json_reply(entry.status, msgspec.json.encode(body), headers)


async def _wait(seconds: float, at_most_s: float) -> None:
    await asyncio.sleep(min(seconds, at_most_s))
    if seconds > at_most_s:
        raise BackendTimeout(
            f"The script waits {seconds:g} s before it answers, longer than {at_most_s:g} s. "
            "Lower `delay_ms`, or raise `first_byte_s`."
        )


def _question(request: dict[str, Any]) -> str:
    """The text of the last user message, or the prompt."""
    if "prompt" in request:
        prompt = request["prompt"]
        return prompt if isinstance(prompt, str) else str(prompt[0]) if prompt else ""
    for message in reversed(request.get("messages") or ()):
        if message.get("role") == "user":
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


def _embeddings(request: dict[str, Any]) -> bytes:
    given = request.get("input", "")
    # One text, one list of token numbers, or a list of either.
    items = given if isinstance(given, list) and not _is_tokens(given) else [given]
    size = request.get("dimensions") or NUM_DIMENSIONS
    data = []
    for place, item in enumerate(items):
        vector: list[float] | str = hashed_vector(
            item if isinstance(item, str) else " ".join(map(str, item)), size
        )
        if request.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        data.append({"object": "embedding", "index": place, "embedding": vector})
    num_tokens = sum(len(str(item)) for item in items) // 4
    return msgspec.json.encode(
        {
            "object": "list",
            "data": data,
            "model": str(request.get("model", "scripted")),
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
        }
    )


def _is_tokens(given: list[Any]) -> bool:
    return bool(given) and all(isinstance(item, int) for item in given)
