"""Pieces that several translations share: texts, images, tool arguments, JSON from a model.

`Json` is a decoded object. Requests raise Untranslatable; answers that are not what their dialect
says raise BackendBroken.
"""

import re
from typing import Any

import msgspec

from twin.errors import BackendBroken, Untranslatable

Json = dict[str, Any]

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL)
_BY_COMPLETION_TOKENS = re.compile(r"(?:o\d|gpt-(?!oss)|chatgpt)")


def answer_object(body: bytes) -> Json:
    """A model's answer. Raises BackendBroken where it is no JSON object."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise BackendBroken(
            "The model's answer is no JSON object; check that the address is a model's."
        )
    return answer


def is_json_object(data: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(data), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def arguments_of(text: Any) -> Json | None:
    """A tool call's arguments as an object, None where they are none. Nothing counts as `{}`."""
    if isinstance(text, dict):
        return text
    if text is None or (isinstance(text, str) and not text.strip()):
        return {}
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, TypeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def json_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def list_of(request: Json, name: str) -> list[Json]:
    """The objects of a list field; Untranslatable where it is something else."""
    value = request.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Untranslatable(f"The field `{name}` must be a list of objects; correct it.")
    return value


def content_parts(content: Any, where: str) -> list[Json]:
    """A message's content as a list of parts; a string is one text part, null is none."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list):
        parts = [{"type": "text", "text": part} if isinstance(part, str) else part
                 for part in content]  # fmt: skip
        if all(isinstance(part, dict) for part in parts):
            return parts
    raise Untranslatable(f"The content of {where} must be a string or a list; correct it.")


def text_of(part: Json) -> str:
    text = part.get("text")
    if not isinstance(text, str):
        raise Untranslatable("A text part has no `text`; give it one.")
    return text


def plain(parts: list[Json]) -> str | list[Json]:
    """One bare text part as the string it stands for."""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"} and parts[0]["type"] == "text":
        text: str = parts[0]["text"]
        return text
    return parts


def data_url(media_type: Any, data: Any) -> str:
    return f"data:{media_type};base64,{data}"


def split_data_url(url: str) -> tuple[str, str] | None:
    """Media type and base64 text of a data URL; None where it is another URL."""
    match = _DATA_URL.fullmatch(url)
    return (match[1], match[2]) if match else None


def limit_name(model: Any) -> str:
    """OpenAI's newer models refuse `max_tokens`; most other servers know nothing else."""
    is_openai = isinstance(model, str) and _BY_COMPLETION_TOKENS.match(model.rpartition("/")[2])
    return "max_completion_tokens" if is_openai else "max_tokens"


def copied(source: Json, *names: str) -> Json:
    """The fields that both dialects call the same, where they are given."""
    return {name: source[name] for name in names if source.get(name) is not None}
