"""What a model answered, read from any dialect: what the answer-side check judges."""

from typing import Any

from twin.backends.dialects.answers import reasoning_of
from twin.backends.dialects.blocks import Json, answer_object, json_text
from twin.backends.dialects.endings import count, finish_reason
from twin.errors import BackendBroken
from twin.records import Answer, DialectName, ToolCall

_NOTHING = Answer(text="")


def answer_of(dialect: DialectName, body: bytes) -> Answer:
    """Of the first choice. Raises BackendBroken where `body` is no answer of this dialect; embedded
    texts are an answer without text."""
    return answer_in(dialect, answer_object(body))


def answer_in(dialect: DialectName, whole: Json) -> Answer:
    """The same of an answer that is decoded already, such as a stream put together. One that broke
    off gives what was there."""
    if dialect == "embeddings":
        return _NOTHING
    read = {"chat": _chat, "completions": _completions, "responses": _responses,
            "messages": _messages}[dialect]  # fmt: skip
    try:
        return read(whole)
    except (TypeError, AttributeError, LookupError, ValueError):
        raise BackendBroken(
            f"The model's answer is none of the dialect `{dialect}`; check the model's provider."
        ) from None


def _answer(
    text: str, calls: list[ToolCall], finish: str, refused: bool, probs: Any, tokens: int, more: str
) -> Answer:
    if not (isinstance(text, str) and isinstance(finish, str)):
        raise TypeError("texts are strings")
    num_chars = len(text) + len(more) + sum(len(call.arguments) for call in calls)
    return Answer(
        text=text,
        tool_calls=tuple(calls),
        finish_reason=finish,
        is_refusal=refused,
        logprobs=tuple(float(value) for value in probs) if probs else None,
        num_completion_tokens=tokens or (num_chars + 3) // 4,
    )


def _chat(whole: Json) -> Answer:
    choice = whole["choices"][0]
    message = choice.get("message") or {}
    refusal = message.get("refusal")
    calls = [_call(each.get("function") or each.get("custom") or {}, each.get("id"))
             for each in message.get("tool_calls") or []]  # fmt: skip
    if isinstance(old := message.get("function_call"), dict):
        calls.append(_call(old, ""))
    finish = choice.get("finish_reason") or ""
    logprobs = choice.get("logprobs") or {}
    probs = [token["logprob"] for token in logprobs.get("content") or []]
    return _answer(
        _words(message.get("content")) or refusal or "",
        calls,
        finish,
        bool(refusal) or finish == "content_filter",
        probs,
        count(whole, "usage", "completion_tokens"),
        reasoning_of(message),
    )


def _words(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content or ""


def _call(function: Json, call_id: Any) -> ToolCall:
    arguments = function.get("arguments", function.get("input"))
    text = arguments if isinstance(arguments, str) else json_text(arguments or {})
    return ToolCall(
        name=str(function.get("name") or ""), arguments=text, call_id=str(call_id or "")
    )


def _completions(whole: Json) -> Answer:
    choice = whole["choices"][0]
    logprobs = choice.get("logprobs") or {}
    # The first token of an echoed prompt has none.
    probs = [value for value in logprobs.get("token_logprobs") or [] if value is not None]
    finish = choice.get("finish_reason") or ""
    tokens = count(whole, "usage", "completion_tokens")
    is_refusal = finish == "content_filter"
    return _answer(choice.get("text") or "", [], finish, is_refusal, probs, tokens, "")


def _messages(whole: Json) -> Answer:
    texts, thoughts, calls = [], [], []
    for block in whole["content"]:
        kind = block.get("type")
        if kind == "text":
            texts.append(block.get("text") or "")
        elif kind == "thinking":
            thoughts.append(block.get("thinking") or "")
        elif kind == "tool_use":
            # What broke off within its arguments keeps them as the text that they were.
            given = block.get("partial_json", block.get("input"))
            calls.append(_call({"name": block.get("name"), "arguments": given}, block.get("id")))
    stop = whole.get("stop_reason")
    finish = finish_reason(stop) if stop else ""
    tokens = count(whole, "usage", "output_tokens")
    return _answer(
        "".join(texts), calls, finish, stop == "refusal", None, tokens, "".join(thoughts)
    )


def _responses(whole: Json) -> Answer:
    texts, refusals, probs, thoughts = [], [], [], []
    calls: list[ToolCall] = []
    for item in whole["output"]:
        kind = item.get("type")
        if kind == "message":
            for part in item.get("content") or []:
                texts.append(part.get("text") or "")
                refusals.append(part.get("refusal") or "")
                probs += [token["logprob"] for token in part.get("logprobs") or []]
        elif kind in ("function_call", "custom_tool_call"):
            calls.append(_call(item, item.get("call_id")))
        elif kind == "reasoning":
            parts = [*(item.get("summary") or []), *(item.get("content") or [])]
            thoughts += [part.get("text") or "" for part in parts]
    refusal = "".join(refusals)
    finish = _responses_finish(whole, bool(calls))
    is_refusal = bool(refusal) or finish == "content_filter"
    tokens = count(whole, "usage", "output_tokens")
    text = "".join(texts) or refusal
    return _answer(text, calls, finish, is_refusal, probs, tokens, "".join(thoughts))


def _responses_finish(whole: Json, has_calls: bool) -> str:
    status = whole.get("status")
    if status == "incomplete":
        reason = (whole.get("incomplete_details") or {}).get("reason")
        return "content_filter" if reason == "content_filter" else "length"
    if status != "completed":
        return ""
    return "tool_calls" if has_calls else "stop"
