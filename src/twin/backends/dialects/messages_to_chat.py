"""An Anthropic request in chat's words.

Without a place there, and dropped: `cache_control`, thinking of earlier turns and its budget (the
effort stays), `top_k`, citations, `service_tier` and what only steers Anthropic's own service. A
result's `is_error` becomes a word in its text. Images within a tool's result follow in a user
message, since a tool message holds only text. All else that has no place raises Untranslatable.
"""

from typing import Any

from twin.backends.dialects.blocks import (
    Json,
    content_parts,
    copied,
    data_url,
    json_text,
    limit_name,
    list_of,
    plain,
    text_of,
)
from twin.errors import Untranslatable

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_SEE_BELOW = "(The image is in the next message.)"


def request(source: Json) -> Json:
    for name in ("container", "mcp_servers"):
        if source.get(name):
            raise Untranslatable(f"The chat dialect has nothing like `{name}`; leave it out.")
    out: Json = copied(source, "model")
    out["messages"] = _conversation(source)
    if source.get("max_tokens") is not None:
        out[limit_name(source.get("model"))] = source["max_tokens"]
    out |= copied(source, "temperature", "top_p")
    if source.get("stop_sequences"):
        out["stop"] = source["stop_sequences"]
    if source.get("stream"):
        # Anthropic's streams always tell the usage.
        out |= {"stream": True, "stream_options": {"include_usage": True}}
    if isinstance(metadata := source.get("metadata"), dict) and metadata.get("user_id"):
        out["user"] = metadata["user_id"]
    return out | _output(source) | _tools(source)


def _conversation(source: Json) -> list[Json]:
    messages: list[Json] = []
    if system := _joined(source.get("system")):
        messages.append({"role": "system", "content": system})
    for message in list_of(source, "messages"):
        role = message.get("role")
        if role == "user":
            messages += _user(message)
        elif role == "assistant":
            messages.append(_assistant(message))
        elif role == "system":
            messages.append({"role": "system", "content": _joined(message.get("content"))})
        else:
            raise Untranslatable(f"There is no role {role!r}; use user or assistant.")
    return messages


def _joined(content: Any) -> str:
    """As one string: the templates of many local models take no list here."""
    return "\n\n".join(text_of(part) for part in content_parts(content, "`system`"))


def _user(message: Json) -> list[Json]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    results: list[Json] = []
    parts: list[Json] = []
    for block in content_parts(content, "a user message"):
        if block.get("type") == "tool_result":
            result, images = _result(block)
            results.append(result)
            parts += images
        else:
            parts += _parts(block)
    return (
        [*results, {"role": "user", "content": plain(parts)}] if parts or not results else results
    )


def _result(block: Json) -> tuple[Json, list[Json]]:
    """The tool message, and the images that it cannot hold."""
    texts: list[str] = []
    images: list[Json] = []
    for inner in content_parts(block.get("content"), "a tool result"):
        for part in _parts(inner):
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                images.append(part)
    if images:
        texts.append(_SEE_BELOW)
    text = "\n\n".join(texts)
    if block.get("is_error") and not text.lower().startswith("error"):
        text = f"Error: {text}"
    call_id = block.get("tool_use_id") or ""
    return {"role": "tool", "tool_call_id": call_id, "content": text}, images


def _parts(block: Json) -> list[Json]:
    kind = block.get("type")
    if kind == "text":
        return [{"type": "text", "text": text_of(block)}]
    if kind == "image":
        return [{"type": "image_url", "image_url": {"url": _url(block, "An image")}}]
    if kind == "document":
        return _document(block)
    if kind == "search_result":
        texts = [text_of(part) for part in content_parts(block.get("content"), "a search result")]
        head = f"{block.get('title') or ''} ({block.get('source') or ''})"
        return [{"type": "text", "text": "\n".join([head, *texts])}]
    raise Untranslatable(
        f"The chat dialect has no content of type {kind!r}; send text, images or documents."
    )


def _url(block: Json, what: str) -> str:
    source = block.get("source")
    if isinstance(source, dict):
        if source.get("type") == "base64":
            return data_url(source.get("media_type"), source.get("data"))
        if source.get("type") == "url" and isinstance(source.get("url"), str):
            url: str = source["url"]
            return url
    raise Untranslatable(f"{what} is kept at the provider; send it as base64 or as a URL.")


def _document(block: Json) -> list[Json]:
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    heads = [str(block[name]) for name in ("title", "context") if block.get(name)]
    if isinstance(source, dict) and kind in ("text", "content"):
        field = "data" if kind == "text" else "content"
        inner = content_parts(source.get(field), "a document")
        titles = [{"type": "text", "text": head} for head in heads]
        return [*titles, *(part for each in inner for part in _parts(each))]
    if kind == "url":
        raise Untranslatable("The chat dialect takes no document by URL; send it as base64.")
    file = {"filename": heads[0] if heads else "document.pdf",
            "file_data": _url(block, "A document")}  # fmt: skip
    return [{"type": "file", "file": file}]


def _assistant(message: Json) -> Json:
    parts: list[Json] = []
    calls: list[Json] = []
    for block in content_parts(message.get("content"), "an assistant message"):
        kind = block.get("type")
        if kind == "tool_use":
            function = {"name": block.get("name") or "",
                        "arguments": json_text(block.get("input") or {})}  # fmt: skip
            calls.append({"id": block.get("id") or "", "type": "function", "function": function})
        elif kind == "text":
            parts += _parts(block)
        elif kind not in ("thinking", "redacted_thinking"):
            raise Untranslatable(
                f"The chat dialect has no assistant content of type {kind!r}; leave it out."
            )
    out: Json = {"role": "assistant", "content": plain(parts) if parts else None}
    if calls:
        out["tool_calls"] = calls
    elif not parts:
        out["content"] = ""
    return out


def _output(source: Json) -> Json:
    config = source.get("output_config")
    config = config if isinstance(config, dict) else {}
    out: Json = {}
    if effort := config.get("effort"):
        out["reasoning_effort"] = effort
    # `output_format` is what it was called while in beta.
    form = config.get("format") or source.get("output_format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        schema = {"name": "answer", "schema": form.get("schema"), "strict": True}
        out["response_format"] = {"type": "json_schema", "json_schema": schema}
    return out


def _tools(source: Json) -> Json:
    tools = [_tool(tool) for tool in list_of(source, "tools")]
    if not tools:
        return {}
    out: Json = {"tools": tools}
    choice = source.get("tool_choice")
    if isinstance(choice, dict):
        kind = choice.get("type")
        if kind == "tool":
            function = {"name": choice.get("name") or ""}
            out["tool_choice"] = {"type": "function", "function": function}
        elif kind in _CHOICES:
            out["tool_choice"] = _CHOICES[kind]
        else:
            raise Untranslatable(f"There is no tool choice {kind!r}; use auto, any, none or tool.")
        if choice.get("disable_parallel_tool_use"):
            out["parallel_tool_calls"] = False
    return out


def _tool(tool: Json) -> Json:
    if tool.get("type") not in (None, "custom"):
        raise Untranslatable(
            f"The tool {tool.get('type')!r} runs at Anthropic; send tools with an `input_schema`."
        )
    function = {
        "name": tool.get("name") or "",
        **copied(tool, "description"),
        "parameters": tool.get("input_schema") or {"type": "object", "properties": {}},
        **copied(tool, "strict"),
    }
    return {"type": "function", "function": function}
