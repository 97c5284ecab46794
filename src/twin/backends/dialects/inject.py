"""Puts text before a request: the hand-off of a model that gave up, or context that was found.

Providers reuse the computation of a prompt's beginning, tools and system text above all. So what is
put in goes as far behind as a system text may stand: after the caller's own, before the
conversation. What the caller sends every time stays the beginning.
"""

import msgspec

from twin.backends.dialects.spans import (
    Fields,
    Span,
    fields_of,
    inserted,
    items_of,
    replaced,
    spans_of,
)
from twin.errors import BadRequest, Untranslatable
from twin.records import DialectName


class _Role(msgspec.Struct):
    role: str = ""


_ROLE = msgspec.json.Decoder(_Role)


def put_before(dialect: DialectName, body: bytes, text: str) -> bytes:
    """`body` with `text` as a system text of its own:

    - chat: a system message after the leading system and developer messages
    - messages: a further block of `system`, which becomes a list where it was a string
    - responses: at the end of `instructions`
    - completions: in front of each prompt

    Only that place changes. Raises Untranslatable where there is none: embeddings, and prompts
    given as token numbers.
    """
    fields = fields_of(body)
    spans = spans_of(body, fields)
    if dialect == "chat":
        return _before_chat(body, spans, text)
    if dialect == "messages":
        return _before_messages(body, fields, spans, text)
    if dialect == "responses":
        return _before_responses(body, fields, spans, text)
    if dialect == "completions":
        return _before_prompt(body, fields, spans, text)
    raise Untranslatable("Embeddings take no system text; switch injection off for this model.")


def _before_chat(body: bytes, spans: dict[str, Span], text: str) -> bytes:
    span = spans.get("messages")
    if span is None or body[span[0] : span[0] + 1] != b"[":
        raise BadRequest("The field `messages` must be a list; correct it.")
    message = msgspec.json.encode({"role": "system", "content": text})
    at = None
    for start, end in items_of(body, span):
        try:
            role = _ROLE.decode(memoryview(body)[start:end]).role
        except msgspec.DecodeError:
            role = ""
        if role not in ("system", "developer"):
            return replaced(body, (start, start), message + b",")
        at = end
    if at is None:
        return replaced(body, span, b"[" + message + b"]")
    return replaced(body, (at, at), b"," + message)


def _before_messages(body: bytes, fields: Fields, spans: dict[str, Span], text: str) -> bytes:
    block = msgspec.json.encode({"type": "text", "text": text})
    raw = bytes(fields.get("system", b"null"))
    if raw[:1] == b'"' and raw != b'""':
        system = b'[{"type":"text","text":' + raw + b"}," + block + b"]"
    elif raw[:1] == b"[" and msgspec.json.decode(raw):
        system = raw[:-1] + b"," + block + b"]"
    elif raw in (b"null", b'""') or raw[:1] == b"[":
        system = msgspec.json.encode(text)
    else:
        raise BadRequest("The field `system` must be a string or a list of blocks; correct it.")
    span = spans.get("system")
    return inserted(body, "system", system) if span is None else replaced(body, span, system)


def _before_responses(body: bytes, fields: Fields, spans: dict[str, Span], text: str) -> bytes:
    raw = bytes(fields.get("instructions", b"null"))
    if raw in (b"null", b'""'):
        instructions = msgspec.json.encode(text)
    elif raw[:1] == b'"':
        instructions = raw[:-1] + msgspec.json.encode("\n\n" + text)[1:]
    else:
        raise BadRequest("The field `instructions` must be a string; correct it.")
    span = spans.get("instructions")
    if span is None:
        return inserted(body, "instructions", instructions)
    return replaced(body, span, instructions)


def _before_prompt(body: bytes, fields: Fields, spans: dict[str, Span], text: str) -> bytes:
    raw = bytes(fields.get("prompt", b"null"))
    span = spans.get("prompt")
    prefix = msgspec.json.encode(text + "\n\n")[:-1]
    if span is not None and raw[:1] == b'"':
        return replaced(body, span, prefix + raw[1:])
    if span is not None and raw[:1] == b"[":
        prompts = [bytes(body[start:end]) for start, end in items_of(body, span)]
        if prompts and all(prompt[:1] == b'"' for prompt in prompts):
            joined = b",".join(prefix + prompt[1:] for prompt in prompts)
            return replaced(body, span, b"[" + joined + b"]")
    raise Untranslatable("Text goes only before a prompt that is text; send `prompt` as a string.")
