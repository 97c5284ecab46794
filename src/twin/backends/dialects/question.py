"""What a request asks, read from any dialect: the texts, their sizes, and what comes with them.

Forgiving on purpose: a field that is not as documented counts as absent, since the model's own
server may know it and says what it dislikes better than a gateway can.
"""

from collections.abc import Iterator
from typing import Any

from twin.backends.dialects.spans import object_of
from twin.records import DialectName, Question

# Tuples: a type that is no string, and not hashable, is simply none of them.
_IMAGES = ("image_url", "input_image", "image")
_RESULTS = (
    "tool_result",
    "function_call_output",
    "custom_tool_call_output",
    "local_shell_call_output",
)
_ANSWERS = ("tool", "function")
_SYSTEM = ("system", "developer")
_TEXTS = ("text", "content", "output", "arguments", "input", "thinking", "refusal", "function")
"""Where blocks and calls of any dialect keep their words."""
_MAX_DEPTH = 20


def question(dialect: DialectName, body: bytes) -> Question:
    """Raises BadRequest where the body is no JSON object."""
    request = object_of(body)
    system, messages = _parts(dialect, request)
    said = [message.get("content") for message in messages if message.get("role") == "user"]
    # An agent's messages in between hold tool results alone; the task is the last one with words.
    text = next(filter(None, map(_said, reversed(said))), "")
    num_chars, has_results, has_images = len(system), False, False
    for message in messages:
        content = message.get("content")
        if isinstance(content, str) and len(message) == 2:
            # A role and a text, as most are: long conversations are read on the way of a request.
            num_chars += len(content)
            has_results = has_results or message.get("role") in _ANSWERS
        else:
            num_chars += _length(message)
            has_results = has_results or _has_result(message)
            has_images = has_images or _has_image(message)
    tools = request.get("tools") or request.get("functions")
    num_tool_chars = _length(tools, every_string=True) if tools else 0
    return Question(
        text=text,
        system=system,
        num_messages=len(messages),
        num_chars=num_chars,
        num_prompt_tokens=(num_chars + num_tool_chars + 3) // 4,
        has_tools=bool(tools),
        has_tool_results=has_results,
        has_images=has_images,
        wants_json=_wants_json(request),
        max_tokens=_max_tokens(request),
    )


def _parts(dialect: DialectName, request: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """The system text, and the messages without it."""
    if dialect in ("completions", "embeddings"):
        prompt = request.get("prompt" if dialect == "completions" else "input")
        prompts = prompt if isinstance(prompt, list) else [prompt]
        if prompts and isinstance(prompts[0], int):
            prompts = [prompts]
        return "", [{"role": "user", "content": item} for item in prompts if item is not None]
    if dialect == "responses":
        leading, items = request.get("instructions"), request.get("input")
    else:
        leading, items = request.get("system"), request.get("messages")
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    items = items if isinstance(items, list) else []
    messages = [item for item in items if isinstance(item, dict)]
    systems = [_said(leading) if dialect != "chat" else ""]
    systems += [_said(each.get("content")) for each in messages if each.get("role") in _SYSTEM]
    return (
        "\n\n".join(filter(None, systems)),
        [each for each in messages if each.get("role") not in _SYSTEM],
    )


def _said(content: Any) -> str:
    """The words of a message itself; not those of tool results within it."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [
        block if isinstance(block, str) else block.get("text")
        for block in content
        if isinstance(block, str | dict)
    ]
    return "\n".join(text for text in texts if isinstance(text, str) and text)


def _length(value: Any, depth: int = 0, every_string: bool = False) -> int:
    """The characters of all texts in it; in tools and their arguments, of every string and key."""
    if isinstance(value, str):
        return len(value)
    if depth > _MAX_DEPTH:
        return 0
    if isinstance(value, list):
        if value and isinstance(value[0], int):
            # Token numbers: four characters each, as everywhere here.
            return 4 * len(value)
        return sum(_length(item, depth + 1, every_string) for item in value)
    if not isinstance(value, dict):
        return 0
    if every_string:
        return sum(len(key) + _length(item, depth + 1, True) for key, item in value.items())
    total = 0
    for key in (*_TEXTS, "tool_calls", "name"):
        if key in value:
            total += _length(value[key], depth + 1, key == "input")
    return total


def _blocks(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The message, its blocks, and what tool results hold."""
    yield message
    for key in ("content", "output"):
        content = message.get(key)
        for block in content if isinstance(content, list) else ():
            if isinstance(block, dict):
                yield block
                inner = block.get("content")
                if isinstance(inner, list):
                    yield from (each for each in inner if isinstance(each, dict))


def _has_image(message: dict[str, Any]) -> bool:
    return any(block.get("type") in _IMAGES for block in _blocks(message))


def _has_result(message: dict[str, Any]) -> bool:
    return message.get("role") in _ANSWERS or any(
        block.get("type") in _RESULTS for block in _blocks(message)
    )


def _wants_json(request: dict[str, Any]) -> bool:
    for holder, key in (("", "response_format"), ("text", "format"), ("output_config", "format"),
                        ("", "output_format")):  # fmt: skip
        outer = request.get(holder) if holder else request
        inner = outer.get(key) if isinstance(outer, dict) else None
        if isinstance(inner, dict) and inner.get("type") in ("json_schema", "json_object"):
            return True
    return False


def _max_tokens(request: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        value = request.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None
