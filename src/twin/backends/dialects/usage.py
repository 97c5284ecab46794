"""The tokens an answer consumed, found without reading the whole of it.

The dialects count differently: OpenAI's prompt tokens include the cached ones, Anthropic's input
tokens exclude what was read from the cache and what was written to it. Here they are included.
"""

import msgspec

from twin.records import DialectName, Usage

_MAX_LOOKS = 6
"""Events looked at from each end: usage is in the first or the last few, if anywhere. Some servers
put `"usage": null` into every event."""
_MAX_TOKENS = 10**12


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Wire(msgspec.Struct):
    """What any dialect may say under `usage`."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _PromptDetails | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Holder(msgspec.Struct):
    usage: _Wire | None = None


class _Event(msgspec.Struct):
    usage: _Wire | None = None
    message: _Holder | None = None
    response: _Holder | None = None


_BODY = msgspec.json.Decoder(_Holder)
_EVENT = msgspec.json.Decoder(_Event)


def usage_of(dialect: DialectName, body_or_stream: bytes, is_stream: bool) -> Usage | None:
    """None where the provider did not say, or what it sent cannot be read."""
    if is_stream:
        wire = _of_stream(dialect, body_or_stream)
    else:
        try:
            wire = _BODY.decode(body_or_stream).usage
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
    return None if wire is None else _usage(dialect, wire)


def _of_stream(dialect: DialectName, sse: bytes) -> _Wire | None:
    last = _search(sse, backwards=True)
    if dialect != "messages":
        return last
    # What went in is told at the start, what came out at the end.
    first = _search(sse, backwards=False)
    if first is None or last is None:
        return first or last
    for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
        if getattr(last, name) is None:
            setattr(last, name, getattr(first, name))
    return last


def _search(sse: bytes, *, backwards: bool) -> _Wire | None:
    """The first or last `usage` in the stream. A quoted `usage` within a text is written with
    backslashes, so that looking for the bare word finds keys only."""
    start, end = 0, len(sse)
    for _ in range(_MAX_LOOKS):
        at = sse.rfind(b'"usage"', start, end) if backwards else sse.find(b'"usage"', start, end)
        if at < 0:
            return None
        line_start = max(sse.rfind(b"\n", 0, at), sse.rfind(b"\r", 0, at)) + 1
        line_end = sse.find(b"\n", at)
        line_end = len(sse) if line_end < 0 else line_end
        line = sse[line_start:line_end]
        if line.startswith(b"data:") and (wire := _of_event(line[5:])) is not None:
            return wire
        start, end = (0, line_start) if backwards else (line_end, len(sse))
    return None


def _of_event(data: bytes) -> _Wire | None:
    try:
        event = _EVENT.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    for holder in (event, event.message, event.response):
        if holder is not None and holder.usage is not None:
            return holder.usage
    return None


def _usage(dialect: DialectName, wire: _Wire) -> Usage:
    if dialect == "messages":
        cached = wire.cache_read_input_tokens
        parts = (wire.input_tokens, cached, wire.cache_creation_input_tokens)
        return Usage(
            num_prompt_tokens=sum(map(_count, parts)),
            num_completion_tokens=_count(wire.output_tokens),
            num_cached_tokens=_count(cached),
        )
    details = wire.prompt_tokens_details or wire.input_tokens_details
    cached = details.cached_tokens if details else wire.prompt_cache_hit_tokens
    prompt = wire.prompt_tokens if wire.prompt_tokens is not None else wire.input_tokens
    output = wire.completion_tokens if wire.completion_tokens is not None else wire.output_tokens
    return Usage(
        num_prompt_tokens=_count(prompt),
        num_completion_tokens=_count(output),
        num_cached_tokens=_count(cached),
    )


def _count(value: int | None) -> int:
    return value if value and 0 < value < _MAX_TOKENS else _clamped(value or 0)


def _clamped(value: int) -> int:
    return min(max(value, 0), _MAX_TOKENS)
