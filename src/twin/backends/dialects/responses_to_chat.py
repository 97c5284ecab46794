"""A request to OpenAI's `responses`, and to its old `completions`, in chat's words.

Without a place there, and dropped: reasoning items of earlier turns, `truncation`, `include` but
for log-probabilities, `metadata` and `store` (chat takes them only together). What is kept at the
provider (an earlier response, a conversation, a prompt, files) and tools that run there raise
Untranslatable.
"""

from typing import Any

from twin.backends.dialects.blocks import (
    Json,
    content_parts,
    copied,
    limit_name,
    list_of,
    plain,
    text_of,
)
from twin.errors import Untranslatable

_KEPT_THERE = {
    "previous_response_id": "send the whole conversation as `input`",
    "conversation": "send the whole conversation as `input`",
    "prompt": "send its text as `instructions` and `input`",
    "background": "ask in the foreground",
}
_SAME_NAME = (
    "temperature", "top_p", "parallel_tool_calls", "user", "safety_identifier",
    "prompt_cache_key", "service_tier",
)  # fmt: skip


def request(source: Json) -> Json:
    for name, cure in _KEPT_THERE.items():
        if source.get(name):
            raise Untranslatable(f"`{name}` works only where the model is hosted; {cure}.")
    out: Json = copied(source, "model")
    out["messages"] = _conversation(source)
    if source.get("max_output_tokens") is not None:
        out[limit_name(source.get("model"))] = source["max_output_tokens"]
    out |= copied(source, *_SAME_NAME)
    if source.get("stream"):
        # These streams always tell the usage.
        out |= {"stream": True, "stream_options": {"include_usage": True}}
    if isinstance(reasoning := source.get("reasoning"), dict) and reasoning.get("effort"):
        out["reasoning_effort"] = reasoning["effort"]
    if source.get("top_logprobs"):
        out |= {"logprobs": True, "top_logprobs": source["top_logprobs"]}
    elif "message.output_text.logprobs" in (source.get("include") or ()):
        out["logprobs"] = True
    return out | _text(source.get("text")) | _tools(source)


def _conversation(source: Json) -> list[Json]:
    messages: list[Json] = []
    if instructions := source.get("instructions"):
        messages.append({"role": "system", "content": instructions})
    items = source.get("input")
    if isinstance(items, str):
        return [*messages, {"role": "user", "content": items}]
    images: list[Json] = []
    for item in list_of(source, "input"):
        kind = item.get("type") or ("message" if "role" in item else None)
        if images and kind != "function_call_output":
            messages.append({"role": "user", "content": images})
            images = []
        if kind == "message":
            messages.append(_message(item))
        elif kind == "function_call":
            _add_call(messages, item)
        elif kind == "function_call_output":
            result, more = _result(item)
            messages.append(result)
            images += more
        elif kind != "reasoning":
            raise Untranslatable(
                f"The chat dialect has no item of type {kind!r}; send messages and function calls."
            )
    return [*messages, {"role": "user", "content": images}] if images else messages


def _message(item: Json) -> Json:
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        raise Untranslatable(f"There is no role {role!r}; use user, assistant or system.")
    content = item.get("content")
    if isinstance(content, str):
        return {"role": role, "content": content}
    parts = [_part(part) for part in content_parts(content, "a message")]
    return {"role": role, "content": plain(parts)}


def _part(part: Json) -> Json:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": text_of(part)}
    if kind == "refusal":
        return {"type": "refusal", "refusal": part.get("refusal") or ""}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        url = {"url": part["image_url"], **copied(part, "detail")}
        return {"type": "image_url", "image_url": url}
    if kind == "input_file" and part.get("file_data"):
        return {"type": "file", "file": copied(part, "filename", "file_data")}
    if kind in ("input_image", "input_file"):
        raise Untranslatable("A file is kept at the provider; send its data or an image's URL.")
    raise Untranslatable(f"The chat dialect has no content of type {kind!r}; send text or images.")


def _add_call(messages: list[Json], item: Json) -> None:
    """To the assistant's message before it: calls of one turn are one message."""
    function = {"name": item.get("name") or "", "arguments": item.get("arguments") or "{}"}
    call = {"id": item.get("call_id") or "", "type": "function", "function": function}
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    messages[-1].setdefault("tool_calls", []).append(call)


def _result(item: Json) -> tuple[Json, list[Json]]:
    """The tool message, and the images that it cannot hold."""
    parts = [_part(part) for part in content_parts(item.get("output"), "a call's output")]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    images = [part for part in parts if part["type"] != "text"]
    if images:
        texts.append("(The image is in the next message.)")
    call_id = item.get("call_id") or ""
    return {"role": "tool", "tool_call_id": call_id, "content": "\n\n".join(texts)}, images


def _text(text: Any) -> Json:
    if not isinstance(text, dict):
        return {}
    out = copied(text, "verbosity")
    form = text.get("format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        schema = copied(form, "name", "description", "schema", "strict")
        out["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif isinstance(form, dict) and form.get("type") == "json_object":
        out["response_format"] = {"type": "json_object"}
    return out


def _tools(source: Json) -> Json:
    tools = [_tool(tool) for tool in list_of(source, "tools")]
    if not tools:
        return {}
    choice = _choice(source.get("tool_choice"))
    return {"tools": tools} | ({} if choice is None else {"tool_choice": choice})


def _tool(tool: Json) -> Json:
    if tool.get("type") != "function":
        raise Untranslatable(
            f"The tool {tool.get('type')!r} has no place in the chat dialect; send functions only."
        )
    function = copied(tool, "name", "description", "parameters", "strict")
    return {"type": "function", "function": function}


def _choice(choice: Any) -> Any:
    if choice is None or choice in ("auto", "none", "required"):
        return choice
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name") or ""}}
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        names = [tool.get("name") for tool in list_of(choice, "tools")]
        tools = [{"type": "function", "function": {"name": name}} for name in names]
        allowed = {"mode": choice.get("mode") or "auto", "tools": tools}
        return {"type": "allowed_tools", "allowed_tools": allowed}
    raise Untranslatable("There is no such tool choice; use auto, none, required or a function.")
