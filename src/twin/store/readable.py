"""What a person would read in a request or an answer, for searching: texts, not field names.

Works on any JSON and on any event stream without knowing its dialect, so that it is neither
complete nor exact; `backends.dialects` is, for those who may import it. Done when somebody searches
and not when a call is recorded: a search is rare, and each call would pay for an index.
"""

import json
import re
from collections.abc import Iterator

import msgspec

# What values under these keys say, nobody searches for; they would match nearly every call.
_MARKUP = frozenset(
    (
        "call_id", "created", "encoding_format", "finish_reason", "id", "item_id", "media_type",
        "model", "object", "role", "signature", "status", "stop_reason", "system_fingerprint",
        "tool_call_id", "tool_use_id", "type",
    )
)  # fmt: skip
_STREAM = re.compile(rb"\s*(?:(?:event|data|id|retry):|:)")
# The texts of an event stream, in order. They come in pieces: a word can be in two events.
_PIECE = re.compile(
    rb'"(?:content|text|delta|partial_json|arguments|thinking|reasoning|reasoning_content|refusal)"'
    rb'\s*:\s*"((?:[^"\\]|\\.)*)"',
    re.DOTALL,
)
_MAX_BINARY = 1_000


def readable(body: bytes) -> str:
    """The texts in a JSON body, one after the other; of an event stream put together; of anything
    else all of it."""
    if _STREAM.match(body):
        return _unescaped(b"".join(_PIECE.findall(body)))
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace")
    return "\n".join(_texts(value))


class Matcher:
    """Whether a text stands in a body, in upper or lower case."""

    def __init__(self, text: str) -> None:
        self._text = text.casefold()
        # What the text looks like inside JSON. Only for ASCII: other letters can stand there in
        # either case, as themselves or escaped.
        self._quick = json.dumps(text)[1:-1].lower().encode() if text.isascii() else b""

    def matches(self, body: bytes) -> bool:
        if not self._might(body):
            return False
        return self._text in readable(body).casefold()

    def _might(self, body: bytes) -> bool:
        """Rules out most bodies at a hundredth of the price of reading them."""
        if not self._quick or b"\\u00" in body:  # ASCII may be written as \u0041 too.
            return True
        if _STREAM.match(body):
            return True
        return self._quick in body.lower()


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        if not (value.startswith("data:") and len(value) > _MAX_BINARY):
            yield value
    elif isinstance(value, dict):
        is_binary = value.get("type") == "base64"
        for key, inner in value.items():
            if key not in _MARKUP and not (is_binary and key == "data"):
                yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _unescaped(text: bytes) -> str:
    decoded = text.decode("utf-8", "replace")
    try:
        return str(json.loads(f'"{decoded}"', strict=False))
    except ValueError:
        return decoded
