"""How an answer ended and what it consumed, from one dialect's words into another's."""

import time
import uuid
from typing import Any

from twin.backends.dialects.blocks import Json

_TO_MESSAGES = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_TO_CHAT = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def stop_reason(finish: Any, *, has_calls: bool, is_refusal: bool) -> str:
    """A chat finish reason as Anthropic's. Some servers say `stop` after tool calls."""
    if is_refusal:
        return "refusal"
    if has_calls and finish in ("stop", None):
        return "tool_use"
    return _TO_MESSAGES.get(finish, "end_turn") if isinstance(finish, str) else "end_turn"


def finish_reason(stop: Any) -> str:
    """Anthropic's stop reason as chat's."""
    return _TO_CHAT.get(stop, "stop") if isinstance(stop, str) else "stop"


def count(holder: Any, *names: str) -> int:
    """A number somewhere within nested objects; 0 where it is absent or none."""
    for name in names:
        holder = holder.get(name) if isinstance(holder, dict) else None
    return max(int(holder), 0) if isinstance(holder, int | float) else 0


def messages_usage(chat: Any) -> Json:
    """Chat's usage as Anthropic's, whose input excludes what the cache read or wrote."""
    cached = count(chat, "prompt_tokens_details", "cached_tokens")
    written = count(chat, "prompt_tokens_details", "cache_write_tokens")
    return {
        "input_tokens": max(count(chat, "prompt_tokens") - cached - written, 0),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": count(chat, "completion_tokens"),
    }


def chat_usage(usage: Any) -> Json:
    """Anthropic's usage as chat's."""
    cached = count(usage, "cache_read_input_tokens")
    written = count(usage, "cache_creation_input_tokens")
    prompt = count(usage, "input_tokens") + cached + written
    output = count(usage, "output_tokens")
    out: Json = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    if written:
        out["prompt_tokens_details"]["cache_write_tokens"] = written
    if thinking := count(usage, "output_tokens_details", "thinking_tokens"):
        out["completion_tokens_details"] = {"reasoning_tokens": thinking}
    return out


def responses_usage(chat: Any) -> Json:
    """Chat's usage as `responses` tells it: the same counts by other names."""
    prompt, output = count(chat, "prompt_tokens"), count(chat, "completion_tokens")
    details = ("prompt_tokens_details",)
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": count(chat, *details, "cached_tokens"),
            "cache_write_tokens": count(chat, *details, "cache_write_tokens"),
        },
        "output_tokens": output,
        "output_tokens_details": {
            "reasoning_tokens": count(chat, "completion_tokens_details", "reasoning_tokens")
        },
        "total_tokens": prompt + output,
    }


def fresh_id(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex}"


def id_from(source: object, prefix: str) -> str:
    """The other dialect's id under this one's prefix, so that both can be joined in logs."""
    if not isinstance(source, str) or not source:
        return fresh_id(prefix)
    if source.startswith(prefix):
        return source
    for known in ("chatcmpl-", "cmpl-", "msg_", "resp_"):
        source = source.removeprefix(known)
    return prefix + source


def now() -> int:
    return int(time.time())
