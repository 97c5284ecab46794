"""A chat request in Anthropic's words.

Without a place there, and dropped: temperature, `top_p` and `top_k`, which Anthropic's models since
Opus 4.7 and its API since the version 2026-10-21 refuse at any value; names of speakers, an image's
`detail`, a schema's name, `seed`, penalties, `service_tier`, `store`, `metadata`, `prediction`,
`verbosity`, cache keys, and the reasoning of earlier turns, which only its own provider could
check. System messages from the middle move to the front, where every model takes them. All else
that has no place raises Untranslatable.
"""

from typing import Any

from twin.backends.dialects.blocks import (
    Json,
    arguments_of,
    content_parts,
    copied,
    json_text,
    list_of,
    split_data_url,
    text_of,
)
from twin.errors import Untranslatable

DEFAULT_MAX_TOKENS = 8192
"""Anthropic demands a bound; every model since 2024 takes this one, and few answers reach it."""
_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh",
            "max": "max"}  # fmt: skip
_ONLY_JSON = "Answer with one JSON object and nothing else."
_REFUSED = {
    "functions": "use `tools`",
    "function_call": "use `tool_choice`",
    "logprobs": "leave it out, or name a model that gives log-probabilities",
    "top_logprobs": "leave it out, or name a model that gives log-probabilities",
    "logit_bias": "leave it out, or name another model",
    "audio": "leave it out, or name a model that speaks",
    "web_search_options": "leave it out, or name a model that searches",
}


def request(chat: Json) -> Json:
    _refuse(chat)
    system, messages = _conversation(list_of(chat, "messages"))
    if isinstance(form := chat.get("response_format"), dict) and form.get("type") == "json_object":
        system.append({"type": "text", "text": _ONLY_JSON})
    limit = chat.get("max_completion_tokens") or chat.get("max_tokens") or DEFAULT_MAX_TOKENS
    out: Json = {"model": chat.get("model") or "", "max_tokens": limit}
    if system:
        is_bare = len(system) == 1 and system[0].keys() == {"type", "text"}
        out["system"] = system[0]["text"] if is_bare else system
    out["messages"] = messages
    out |= copied(chat, "stream", "thinking")
    if stop := chat.get("stop"):
        out["stop_sequences"] = _stops(stop)
    if user := chat.get("safety_identifier") or chat.get("user"):
        out["metadata"] = {"user_id": user}
    if config := _output_config(chat):
        out["output_config"] = config
    return out | _tools(chat)


def _refuse(chat: Json) -> None:
    for name, cure in _REFUSED.items():
        if chat.get(name):
            raise Untranslatable(f"Anthropic's dialect has nothing like `{name}`; {cure}.")
    if (chat.get("n") or 1) != 1:
        raise Untranslatable("Anthropic's models give one answer; ask with `n` 1, several times.")
    if "audio" in (chat.get("modalities") or ()):
        raise Untranslatable("Anthropic's models do not speak; ask for the modality `text`.")


def _conversation(messages: list[Json]) -> tuple[list[Json], list[Json]]:
    """The system blocks, and the turns. Results that follow one another are one user turn, since
    all results of parallel calls must come together."""
    system: list[Json] = []
    turns: list[Json] = []
    is_after_result = False
    for message in messages:
        role = message.get("role")
        is_result = False
        if role in ("system", "developer"):
            parts = content_parts(message.get("content"), "a system message")
            system += [_block(part) for part in parts if part.get("text") != ""]
            continue
        if role == "user":
            turns.append({"role": "user", "content": _said(message.get("content"))})
        elif role == "assistant":
            if blocks := _assistant(message):
                turns.append({"role": "assistant", "content": blocks})
        elif role == "tool":
            is_result = True
            if is_after_result:
                turns[-1]["content"].append(_result(message))
            else:
                turns.append({"role": "user", "content": [_result(message)]})
        else:
            raise Untranslatable(
                f"Anthropic's dialect has no role {role!r}; use user, assistant, system or tool."
            )
        is_after_result = is_result
    return system, turns


def _said(content: Any) -> str | list[Json]:
    if isinstance(content, str):
        return content
    return [_block(part) for part in content_parts(content, "a user message")]


def _assistant(message: Json) -> str | list[Json]:
    parts = content_parts(message.get("content"), "an assistant message")
    if message.get("refusal"):
        parts = [*parts, {"type": "refusal", "refusal": message["refusal"]}]
    blocks = [_block(part) for part in parts if part.get("text") != ""]
    for call in list_of(message, "tool_calls"):
        blocks.append(_tool_use(call))
    if message.get("function_call"):
        raise Untranslatable("A message has a `function_call`; send it as `tool_calls`.")
    if message.get("audio"):
        raise Untranslatable("A message refers to audio; send its transcript as text.")
    is_bare = len(blocks) == 1 and blocks[0].keys() == {"type", "text"}
    text: str = blocks[0]["text"] if is_bare else ""
    return text if is_bare else blocks


def _tool_use(call: Json) -> Json:
    function = call.get("function")
    if not isinstance(function, dict):
        raise Untranslatable("A tool call is no function call; only functions have a translation.")
    arguments = arguments_of(function.get("arguments"))
    if arguments is None:
        raise Untranslatable(
            f"The arguments of a call to `{function.get('name')}` are no JSON object; correct them."
        )
    name = function.get("name") or ""
    return {"type": "tool_use", "id": call.get("id") or "", "name": name, "input": arguments}


def _result(message: Json) -> Json:
    content = message.get("content")
    if not isinstance(content, str):
        content = [_block(part) for part in content_parts(content, "a tool message")]
    call_id = message.get("tool_call_id") or ""
    return {"type": "tool_result", "tool_use_id": call_id, "content": content}


def _block(part: Json) -> Json:
    kind = part.get("type")
    # Servers of many models take Anthropic's cache marks in chat parts.
    mark = copied(part, "cache_control")
    if kind == "text":
        return {"type": "text", "text": text_of(part), **mark}
    if kind == "refusal":
        return {"type": "text", "text": str(part.get("refusal") or "")}
    if kind == "image_url":
        return {"type": "image", "source": _image_source(part.get("image_url")), **mark}
    if kind == "file":
        return {**_document(part.get("file")), **mark}
    raise Untranslatable(
        f"Anthropic's dialect has no content of type {kind!r}; send text, images or PDF files."
    )


def _image_source(image: Any) -> Json:
    url = image.get("url") if isinstance(image, dict) else image
    if isinstance(url, str):
        if parts := split_data_url(url):
            return {"type": "base64", "media_type": parts[0], "data": parts[1]}
        if url.startswith(("http://", "https://")):
            return {"type": "url", "url": url}
    raise Untranslatable("An image must be a base64 data URL or an http(s) URL; send it as one.")


def _document(file: Any) -> Json:
    data = file.get("file_data") if isinstance(file, dict) else None
    parts = split_data_url(data) if isinstance(data, str) else None
    if parts is None or parts[0] != "application/pdf":
        raise Untranslatable("A file must be a PDF as a base64 data URL; send it as `file_data`.")
    source = {"type": "base64", "media_type": parts[0], "data": parts[1]}
    title = {"title": file["filename"]} if file.get("filename") else {}
    return {"type": "document", "source": source, **title}


def _stops(stop: Any) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(s, str) and s.strip() for s in stops):
        raise Untranslatable("Anthropic's stop sequences need more than white space; change them.")
    return stops


def _output_config(chat: Json) -> Json:
    config: Json = {}
    if effort := _EFFORTS.get(chat.get("reasoning_effort") or ""):
        config["effort"] = effort
    form = chat.get("response_format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        named = form.get("json_schema")
        schema = named.get("schema") if isinstance(named, dict) else None
        if not isinstance(schema, dict):
            raise Untranslatable("The response format has no `schema`; add one.")
        config["format"] = {"type": "json_schema", "schema": schema}
    return config


def _tools(chat: Json) -> Json:
    tools = list_of(chat, "tools")
    choice = chat.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools") or {}
        names = {_tool_name(tool) for tool in list_of(allowed, "tools")}
        tools = [tool for tool in tools if _tool_name(tool) in names]
        choice = allowed.get("mode") or "auto"
    if not tools:
        return {}
    out: Json = {"tools": [_tool(tool) for tool in tools]}
    if (chosen := _choice(choice)) is not None:
        out["tool_choice"] = chosen
    if chat.get("parallel_tool_calls") is False:
        chosen = out.setdefault("tool_choice", {"type": "auto"})
        if chosen["type"] != "none":
            chosen["disable_parallel_tool_use"] = True
    return out


def _tool_name(tool: Json) -> str:
    function = tool.get("function")
    return str(function.get("name")) if isinstance(function, dict) else ""


def _tool(tool: Json) -> Json:
    function = tool.get("function")
    if not isinstance(function, dict):
        raise Untranslatable(f"A tool is no function ({json_text(tool.get('type'))}); send one.")
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    return {
        "name": function.get("name") or "",
        **copied(function, "description", "strict"),
        "input_schema": schema,
        **copied(tool, "cache_control"),
    }


def _choice(choice: Any) -> Json | None:
    if choice is None:
        return None
    if isinstance(choice, str) and choice in ("auto", "none"):
        return {"type": choice}
    if choice in ("required", "any"):
        return {"type": "any"}
    if isinstance(choice, dict) and isinstance(function := choice.get("function"), dict):
        return {"type": "tool", "name": function.get("name") or ""}
    raise Untranslatable("There is no such tool choice; use auto, none, required or a function.")
