"""Where the parts of a JSON text lie in its bytes, so that one can be replaced and the rest stays.

The decoder, in C, says how long each value is; the walk over the few top-level keys finds where it
starts, and compares, so that a body which repeats a key is found out. 50 kB take about 30 us.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from twin.errors import BadRequest

Fields = dict[str, msgspec.Raw]
Span = tuple[int, int]
"""First byte, and the byte after the last."""

_OBJECT = msgspec.json.Decoder(Fields)
_WHOLE = msgspec.json.Decoder(dict[str, Any])
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_KEY = re.compile(rb'[ \t\n\r]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\n\r]*:[ \t\n\r]*', re.DOTALL)
_SPACE = re.compile(rb"[ \t\n\r]*")
_MAX_FIELDS = 1000
"""The walk takes a microsecond a field; no dialect knows a hundred."""
_CURE = "send one JSON object in UTF-8 with `content-type: application/json`."


def fields_of(body: bytes) -> Fields:
    """The top-level fields, undecoded. Raises BadRequest where the body is no JSON object."""
    fields: Fields = _decoded(body, _OBJECT)
    return fields


def object_of(body: bytes) -> dict[str, Any]:
    """The whole body as Python objects. Raises BadRequest where it is no JSON object."""
    value: dict[str, Any] = _decoded(body, _WHOLE)
    return value


_OPEN, _COMMA = b"{", b","


def _decoded(body: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    try:
        value = decoder.decode(body)
        # The decoder skips over strings without looking; a server may choke on them.
        body.decode()
    except msgspec.ValidationError:
        raise BadRequest(f"The request's body is no JSON object; {_CURE}") from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"The request's body is not JSON ({error}); {_CURE}") from None
    except UnicodeDecodeError:
        raise BadRequest(f"The request's body is not UTF-8; {_CURE}") from None
    except RecursionError:
        raise _too_deep() from None
    return value


def spans_of(body: bytes, fields: Fields) -> dict[str, Span]:
    """Where each top-level value lies. Raises BadRequest where a key is given twice: servers differ
    in which of the two they take, so that what was checked here might not be what is answered."""
    if len(fields) > _MAX_FIELDS:
        raise BadRequest(f"The request's body has more than {_MAX_FIELDS} fields; send fewer.")
    spans = _of_plain(body, fields)
    if spans is not None:
        return spans
    spans = {}
    at = body.index(b"{") + 1
    last = len(fields) - 1
    for number, (name, raw) in enumerate(fields.items()):
        key = _KEY.match(body, at)
        if key is None or _name(key[1]) != name:
            raise _twice(fields)
        value = bytes(raw)
        start = key.end()
        end = start + len(value)
        if not body.startswith(value, start):
            raise _twice(fields)
        spans[name] = (start, end)
        at = end if body[end : end + 1] in (b",", b"}") else _after_space(body, end)
        if body[at : at + 1] != (b"," if number < last else b"}"):
            raise _twice(fields)
        at += 1
    return spans


def _of_plain(body: bytes, fields: Fields) -> dict[str, Span] | None:
    """The same for a body as clients write it: no space outside of values, or one after each colon
    and comma. None says that somebody has to look closely; twice as fast where it need not."""
    spans: dict[str, Span] = {}
    at = 0
    mark = _OPEN
    for name, raw in fields.items():
        if body[at : at + 1] != mark:
            return None
        at += 1 if body[at + 1 : at + 2] != b" " else 2
        key = b'"%s":' % name.encode("utf-8", "replace")
        if not body.startswith(key, at):
            return None
        start = at + len(key)
        start += body[start : start + 1] == b" "
        value = bytes(raw)
        if not body.startswith(value, start):
            return None
        at = start + len(value)
        spans[name] = (start, at)
        mark = _COMMA
    return spans if at == len(body) - 1 and spans else None


def items_of(body: bytes, span: Span) -> Iterator[Span]:
    """Where the items of the array at `span` lie."""
    start, end = span
    at = start + 1
    try:
        items = _ARRAY.decode(memoryview(body)[start:end])
    except RecursionError:
        raise _too_deep() from None
    for raw in items:
        at = _after_space(body, at)
        size = len(memoryview(raw))
        yield (at, at + size)
        at = _after_space(body, at + size) + 1


def replaced(body: bytes, span: Span, value: bytes) -> bytes:
    return b"".join((body[: span[0]], value, body[span[1] :]))


def inserted(body: bytes, name: str, value: bytes) -> bytes:
    """`body` with a field more, in front of all others."""
    at = body.index(b"{") + 1
    next_at = _after_space(body, at)
    comma = b"" if body[next_at : next_at + 1] == b"}" else b","
    return b"".join((body[:at], b'"%s":' % name.encode(), value, comma, body[at:]))


def _after_space(body: bytes, at: int) -> int:
    match = _SPACE.match(body, at)
    return match.end() if match else at


def _name(token: bytes) -> str:
    if b"\\" in token:
        name: str = msgspec.json.decode(token)
        return name
    return token[1:-1].decode()


def _twice(fields: Fields) -> BadRequest:
    names = ", ".join(f"`{name[:40]}`" for name in list(fields)[:8])
    return BadRequest(
        f"A field of the request's body is given twice, among {names}; send each field once."
    )


def _too_deep() -> BadRequest:
    return BadRequest(
        "The request's body is nested too deeply; send fewer levels of arrays and objects."
    )
