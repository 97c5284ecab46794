"""What the gateway must know of a request before it sends it on, and its `model` replaced.

Reads the few fields that matter and leaves the rest as bytes: a body is passed on as it came.
"""

from typing import Any

import msgspec

from twin.backends.dialects.spans import Fields, Span, fields_of, inserted, replaced, spans_of
from twin.errors import BadRequest
from twin.records import DialectName


class RequestHead(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that decide how a request is handled; every other one stays in the body."""

    dialect: DialectName
    model: str
    """Empty where the caller named none."""
    stream: bool = False
    max_tokens: int | None = None
    """The bound on the answer, by whichever name the dialect has for it."""
    session: str = ""
    """What the caller gave that holds a conversation together, such as `user`; with its kind in
    front, so that two kinds never meet."""
    wants_logprobs: bool = False
    include_usage: bool = False
    """The caller asked for usage at the end of the stream; `messages` and `responses` always do."""
    model_span: Span | None = None
    """Where the model's name lies in the body; spares `with_model` the search."""


_TEXT = msgspec.json.Decoder(str | None)
_FLAG = msgspec.json.Decoder(bool | None)
_COUNT = msgspec.json.Decoder(int | None)
_FLAG_OR_COUNT = msgspec.json.Decoder(bool | int | None)
_KINDS: dict[msgspec.json.Decoder[Any], str] = {
    _TEXT: "a string",
    _FLAG: "true or false",
    _COUNT: "a whole number",
    _FLAG_OR_COUNT: "true, false or a whole number",
}


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _Named(msgspec.Struct):
    id: str | None = None


_STREAM_OPTIONS = msgspec.json.Decoder(_StreamOptions | None)
_METADATA = msgspec.json.Decoder(_Metadata | None)
_CONVERSATION = msgspec.json.Decoder(str | _Named | None)

_LIMITS: dict[DialectName, tuple[str, ...]] = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "completions": ("max_tokens",),
    "embeddings": (),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
}


def read_request(dialect: DialectName, body: bytes) -> RequestHead:
    """Raises BadRequest where the body is no JSON object in UTF-8, gives a key twice, or has a
    field of the wrong type among those read here."""
    fields = fields_of(body)
    spans = spans_of(body, fields)
    return RequestHead(
        dialect=dialect,
        model=_read(fields, "model", _TEXT) or "",
        # Servers of embeddings do not know the field, and answer whole whatever it says.
        stream=dialect != "embeddings"
        and "stream" in fields
        and bool(_read(fields, "stream", _FLAG)),
        max_tokens=_limit(dialect, fields),
        session=_session(fields),
        wants_logprobs=_wants_logprobs(dialect, fields),
        include_usage=_include_usage(dialect, fields),
        model_span=spans.get("model"),
    )


def with_model(
    dialect: DialectName, body: bytes, model: str, head: RequestHead | None = None
) -> bytes:
    """`body` with another model's name and not a byte changed elsewhere; the name is put in front
    where it had none. `head` is what `read_request` gave for these very bytes."""
    name = msgspec.json.encode(model)
    span = head.model_span if head else spans_of(body, fields_of(body)).get("model")
    if span is None:
        return inserted(body, "model", name)
    return replaced(body, span, name)


def _read(fields: Fields, name: str, decoder: msgspec.json.Decoder[Any]) -> Any:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        kind = _KINDS.get(decoder, "as its documentation says")
        raise BadRequest(f"The field `{name}` must be {kind}; correct it.") from None


def _limit(dialect: DialectName, fields: Fields) -> int | None:
    for name in _LIMITS[dialect]:
        if name not in fields:
            continue
        count: int | None = _read(fields, name, _COUNT)
        if count is not None:
            if not 0 <= count < 2**53:
                raise BadRequest(f"The field `{name}` must be a positive number; correct it.")
            return count
    return None


def _session(fields: Fields) -> str:
    """The narrowest hint first: a conversation's own id, then a cache key, then a person."""
    if "conversation" in fields and (value := _read(fields, "conversation", _CONVERSATION)):
        name = value if isinstance(value, str) else value.id
        if name:
            return f"conversation:{name}"
    for name in ("previous_response_id", "prompt_cache_key"):
        if name in fields and (value := _read(fields, name, _TEXT)):
            return f"{name}:{value}"
    if "metadata" in fields:
        try:
            metadata = _METADATA.decode(fields["metadata"])
        except msgspec.DecodeError:
            # In OpenAI's dialects it is free-form, and a `user_id` in it may be anything.
            metadata = None
        if metadata is not None and metadata.user_id:
            return f"user:{metadata.user_id}"
    user = _read(fields, "user", _TEXT) if "user" in fields else None
    return f"user:{user}" if user else ""


def _wants_logprobs(dialect: DialectName, fields: Fields) -> bool:
    if dialect == "responses":
        return bool(_read(fields, "top_logprobs", _COUNT)) or (
            b"output_text.logprobs" in bytes(fields.get("include", msgspec.Raw(b"")))
        )
    if "logprobs" not in fields:
        return False
    value = _read(fields, "logprobs", _FLAG_OR_COUNT)
    # In `completions` it counts alternatives, and 0 still asks for the tokens' own.
    return value is not None and value is not False


def _include_usage(dialect: DialectName, fields: Fields) -> bool:
    if dialect in ("messages", "responses"):
        return True
    if "stream_options" not in fields:
        return False
    options: _StreamOptions | None = _read(fields, "stream_options", _STREAM_OPTIONS)
    return options is not None and bool(options.include_usage)
