"""Whole answers from one dialect into another: messages <-> chat, chat -> responses, completions.

Dropped, having no place: citations and annotations, all choices but the first (chat -> messages and
responses), log-probabilities (-> messages). Thinking is kept: in chat as `reasoning_content`, the
field that open servers use; in `messages` as a thinking block with an empty signature, which
Anthropic itself would not take back.
"""

from typing import Any

from twin.backends.dialects.blocks import Json, arguments_of, json_text
from twin.backends.dialects.endings import (
    chat_usage,
    finish_reason,
    fresh_id,
    id_from,
    messages_usage,
    now,
    responses_usage,
    stop_reason,
)
from twin.errors import BackendBroken


def first_choice(chat: Json) -> Json:
    choices = chat.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BackendBroken("The model's answer has no choices; ask again or another model.")
    choice: Json = choices[0]
    return choice


def reasoning_of(message: Json) -> str:
    """What open servers add to a message or a delta, by either of the names in use."""
    text = message.get("reasoning_content") or message.get("reasoning")
    return text if isinstance(text, str) else ""


def chat_to_messages(chat: Json, model: str) -> Json:
    choice = first_choice(chat)
    message = choice.get("message") or {}
    refusal = message.get("refusal")
    blocks: list[Json] = []
    if thinking := reasoning_of(message):
        blocks.append({"type": "thinking", "thinking": thinking, "signature": ""})
    if text := message.get("content") or refusal:
        blocks.append({"type": "text", "text": text})
    calls = message.get("tool_calls") or []
    blocks += [_tool_use(call) for call in calls]
    stop = stop_reason(choice.get("finish_reason"), has_calls=bool(calls), is_refusal=bool(refusal))
    return {
        "id": id_from(chat.get("id"), "msg_"),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": blocks,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": messages_usage(chat.get("usage")),
    }


def _tool_use(call: Json) -> Json:
    function = call.get("function") or {}
    arguments = arguments_of(function.get("arguments"))
    if arguments is None:
        raise BackendBroken(
            f"The model called `{function.get('name')}` with arguments that are no JSON object;"
            " ask again or another model."
        )
    call_id = call.get("id") or fresh_id("toolu_")
    return {"type": "tool_use", "id": call_id, "name": function.get("name"), "input": arguments}


def messages_to_chat(answer: Json, model: str) -> Json:
    texts, thoughts = [], []
    calls: list[Json] = []
    for block in answer.get("content") or []:
        kind = block.get("type")
        if kind == "text":
            texts.append(block.get("text") or "")
        elif kind == "thinking":
            thoughts.append(block.get("thinking") or "")
        elif kind == "tool_use":
            function = {"name": block.get("name"), "arguments": json_text(block.get("input") or {})}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
    message: Json = {"role": "assistant", "content": "".join(texts) if texts else None}
    message["refusal"] = refusal_of(answer) if not texts else None
    if thinking := "\n\n".join(filter(None, thoughts)):
        message["reasoning_content"] = thinking
    if calls:
        message["tool_calls"] = calls
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": finish_reason(answer.get("stop_reason")),
    }
    return {
        "id": id_from(answer.get("id"), "chatcmpl-"),
        "object": "chat.completion",
        "created": now(),
        "model": model,
        "choices": [choice],
        "usage": chat_usage(answer.get("usage")),
    }


def refusal_of(answer: Json) -> str | None:
    """Why Anthropic's classifiers stopped the answer, None where they did not or do not say."""
    details = answer.get("stop_details")
    if answer.get("stop_reason") != "refusal" or not isinstance(details, dict):
        return None
    explanation = details.get("explanation")
    return explanation if isinstance(explanation, str) else None


def chat_to_responses(chat: Json, model: str) -> Json:
    choice = first_choice(chat)
    message = choice.get("message") or {}
    output: list[Json] = []
    if thinking := reasoning_of(message):
        output.append(reasoning_item(fresh_id("rs_"), thinking))
    parts: list[Json] = []
    if message.get("content"):
        parts.append(text_part(message["content"], choice.get("logprobs")))
    if message.get("refusal"):
        parts.append({"type": "refusal", "refusal": message["refusal"]})
    status, details = response_status(choice.get("finish_reason"))
    if parts:
        output.append(message_item(fresh_id("msg_"), parts, status))
    for call in message.get("tool_calls") or []:
        function = call.get("function") or {}
        arguments, name = function.get("arguments") or "{}", function.get("name")
        output.append(call_item(fresh_id("fc_"), call.get("id"), name, arguments))
    response = response_frame(id_from(chat.get("id"), "resp_"), model, chat.get("created"))
    usage = chat.get("usage")
    return response | {
        "status": status,
        "incomplete_details": details,
        "output": output,
        "usage": responses_usage(usage) if usage else None,
    }


def response_frame(response_id: str, model: str, created: Any) -> Json:
    """A response under way. What the request said of tools is not known here, nor repeated."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": created if isinstance(created, int | float) else now(),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
    }


def response_status(finish: Any) -> tuple[str, Json | None]:
    if finish == "length":
        return "incomplete", {"reason": "max_output_tokens"}
    if finish == "content_filter":
        return "incomplete", {"reason": "content_filter"}
    return "completed", None


def reasoning_item(item_id: str, text: str) -> Json:
    summary = [{"type": "summary_text", "text": text}] if text else []
    return {"id": item_id, "type": "reasoning", "summary": summary}


def message_item(item_id: str, parts: list[Json], status: str = "completed") -> Json:
    return {"id": item_id, "type": "message", "role": "assistant", "status": status,
            "content": parts}  # fmt: skip


def call_item(item_id: str, call_id: Any, name: Any, arguments: str, done: bool = True) -> Json:
    return {
        "id": item_id,
        "type": "function_call",
        "call_id": call_id or fresh_id("call_"),
        "name": name,
        "arguments": arguments,
        "status": "completed" if done else "in_progress",
    }


def text_part(text: str, logprobs: Any = None) -> Json:
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    return {"type": "output_text", "text": text, "annotations": [],
            "logprobs": [token_logprob(token) for token in tokens or []]}  # fmt: skip


def token_logprob(token: Json) -> Json:
    """A chat token as `responses` has it: there the bytes are not optional."""
    tops = [_token(top) for top in token.get("top_logprobs") or []]
    return {**_token(token), "top_logprobs": tops}


def _token(token: Json) -> Json:
    text = token.get("token") or ""
    as_bytes = token.get("bytes") or list(text.encode("utf-8", "replace"))
    return {"token": text, "logprob": token.get("logprob"), "bytes": as_bytes}


def chat_to_completions(chat: Json, model: str) -> Json:
    first_choice(chat)
    out: Json = {
        "id": id_from(chat.get("id"), "cmpl-"),
        "object": "text_completion",
        "created": chat.get("created") or now(),
        "model": model,
        "choices": [_completion_choice(choice) for choice in chat["choices"]],
    }
    if chat.get("usage"):
        out["usage"] = chat["usage"]
    return out


def _completion_choice(choice: Json) -> Json:
    message = choice.get("message") or {}
    text = message.get("content") or message.get("refusal") or ""
    return {
        "index": choice.get("index") or 0,
        "text": text,
        "logprobs": completion_logprobs(choice.get("logprobs")),
        "finish_reason": completion_finish(choice.get("finish_reason")),
    }


def completion_finish(finish: Any) -> Any:
    return "stop" if finish in ("tool_calls", "function_call") else finish


def completion_logprobs(logprobs: Any, offset: int = 0) -> Json | None:
    """Chat's list of tokens as the old endpoint's four parallel lists; `offset` is where the first
    token begins in the text."""
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not tokens:
        return None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.get("token") or "")
    return {
        "tokens": [token.get("token") for token in tokens],
        "token_logprobs": [token.get("logprob") for token in tokens],
        "top_logprobs": [
            {top.get("token"): top.get("logprob") for top in token.get("top_logprobs") or []}
            for token in tokens
        ],
        "text_offset": offsets,
    }
