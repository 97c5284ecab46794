"""A stream's bytes put together into the answer that would have come without streaming.

For records and checks, so it never fails: a stream that broke off gives what was there, unknown
events and unreadable data are passed over. An error event is kept under `error`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from twin.backends.dialects.blocks import Json, arguments_of
from twin.backends.dialects.streams import CallSlots
from twin.backends.sse import SseParser
from twin.errors import BackendBroken
from twin.records import DialectName

_RESPONSE_ENDS = (b'"response.completed"', b'"response.incomplete"')


def whole_from_stream(dialect: DialectName, sse: bytes) -> Json:
    """The whole answer as an object; empty where the stream said nothing that can be read."""
    return _WHOLE[dialect](_payloads(sse))


def stream_ended(dialect: DialectName, sse: bytes) -> bool:
    """The stream's last bytes say that the answer is whole. An error event does not."""
    tail = sse[-400:]
    if dialect == "messages":
        return b'"message_stop"' in tail
    if dialect == "responses":
        # The last event repeats the whole answer; within its texts these words have backslashes.
        return any(sse.rfind(word) >= 0 for word in _RESPONSE_ENDS)
    return tail.rstrip().endswith(b"data: [DONE]") or b'"finish_reason":"' in tail.replace(
        b" ", b""
    )


def _payloads(sse: bytes) -> Iterator[Json]:
    # One pass over bytes that are here already: their size is the bound.
    parser = SseParser(max_event_bytes=len(sse) + 1)
    try:
        events = [*parser.feed(sse), *parser.end()]
    except BackendBroken:
        return
    for event in events:
        try:
            payload = msgspec.json.decode(event.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(payload, dict):
            yield payload


def _objects(value: Any) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _chat(payloads: Iterator[Json]) -> Json:
    return _of_choices(payloads, "chat.completion", _add_chat_choice)


def _completions(payloads: Iterator[Json]) -> Json:
    return _of_choices(payloads, "text_completion", _add_text_choice)


def _of_choices(
    payloads: Iterator[Json], name: str, add: Callable[[Json, Json, CallSlots], None]
) -> Json:
    whole: Json = {}
    choices: dict[int, Json] = {}
    slots: dict[int, CallSlots] = {}
    for payload in payloads:
        for key, value in payload.items():
            if key != "choices" and value is not None:
                whole[key] = value
        for choice in _objects(payload.get("choices")):
            index = choice.get("index")
            index = index if isinstance(index, int) else 0
            into = choices.setdefault(index, {"index": index, "finish_reason": None})
            add(into, choice, slots.setdefault(index, CallSlots()))
            into["finish_reason"] = choice.get("finish_reason") or into["finish_reason"]
    if not whole and not choices:
        return {}
    if choices or "error" not in whole:
        whole["object"] = name
        whole["choices"] = [choices[index] for index in sorted(choices)]
    return whole


def _add_chat_choice(into: Json, choice: Json, slots: CallSlots) -> None:
    message = into.setdefault("message", {"role": "assistant", "content": None})
    delta = choice.get("delta")
    for key, value in (delta if isinstance(delta, dict) else {}).items():
        if key == "tool_calls":
            for call in _objects(value):
                _add_call(message.setdefault("tool_calls", []), call, slots)
        elif key == "role":
            message["role"] = value or "assistant"
        else:
            _grow(message, key, value)
    logprobs = choice.get("logprobs")
    if isinstance(logprobs, dict):
        _grow(into, "logprobs", logprobs)


def _add_call(calls: list[Json], delta: Json, slots: CallSlots) -> None:
    slot, is_new = slots.slot(delta)
    if is_new:
        calls.append({"id": "", "type": "function"})
    call = calls[slot]
    for key, value in delta.items():
        if key in ("id", "type"):
            call[key] = value or call.get(key)
        elif key != "index":
            _grow(call, key, value)


def _add_text_choice(into: Json, choice: Json, _: CallSlots) -> None:
    _grow(into, "text", choice.get("text") or "")
    if isinstance(logprobs := choice.get("logprobs"), dict):
        _grow(into, "logprobs", logprobs)


def _grow(into: Json, key: str, value: Any) -> None:
    """Texts and lists get longer, objects grow within, all else is replaced."""
    known = into.get(key)
    if value is None:
        into.setdefault(key, None)
    elif isinstance(value, str) and isinstance(known, str) and key not in ("name", "id", "type"):
        into[key] = known + value
    elif isinstance(value, list) and isinstance(known, list):
        known.extend(value)
    elif isinstance(value, dict) and isinstance(known, dict):
        for inner, each in value.items():
            _grow(known, inner, each)
    else:
        into[key] = value


def _messages(payloads: Iterator[Json]) -> Json:
    whole: Json = {}
    blocks: dict[Any, Json] = {}
    inputs: dict[Any, str] = {}
    for payload in payloads:
        kind, index = payload.get("type"), str(payload.get("index"))
        if kind == "message_start" and isinstance(payload.get("message"), dict):
            whole = {**payload["message"], "content": []}
        elif kind == "content_block_start" and isinstance(payload.get("content_block"), dict):
            blocks[index] = payload["content_block"]
        elif kind == "content_block_delta" and isinstance(payload.get("delta"), dict):
            _add_block_delta(blocks.setdefault(index, {}), payload["delta"], inputs, index)
        elif kind == "message_delta":
            for part in ("delta", "usage"):
                _overwrite(whole if part == "delta" else whole.setdefault("usage", {}),
                           payload.get(part))  # fmt: skip
        elif kind == "error":
            whole["error"] = payload.get("error")
    for index, text in inputs.items():
        arguments = arguments_of(text)
        if arguments is None:
            # It broke off within: the text says how far it came.
            blocks[index]["partial_json"] = text
        else:
            blocks[index]["input"] = arguments
    if blocks:
        whole["content"] = list(blocks.values())
    return whole


def _overwrite(into: Any, values: Any) -> None:
    """What is said later counts, but for null."""
    if isinstance(into, dict) and isinstance(values, dict):
        into |= {key: value for key, value in values.items()
                 if value is not None or key not in into}  # fmt: skip


def _add_block_delta(block: Json, delta: Json, inputs: dict[Any, str], index: str) -> None:
    kind = delta.get("type")
    if kind == "text_delta":
        block.setdefault("type", "text")
        _grow(block, "text", delta.get("text"))
    elif kind == "thinking_delta":
        block.setdefault("type", "thinking")
        _grow(block, "thinking", delta.get("thinking"))
    elif kind == "signature_delta":
        block["signature"] = delta.get("signature")
    elif kind == "input_json_delta":
        inputs[index] = inputs.get(index, "") + str(delta.get("partial_json") or "")
    elif kind == "citations_delta":
        if not isinstance(block.get("citations"), list):
            block["citations"] = []
        block["citations"].append(delta.get("citation"))


def _responses(payloads: Iterator[Json]) -> Json:
    whole: Json = {}
    items: dict[int, Json] = {}
    for payload in payloads:
        kind = str(payload.get("type"))
        if isinstance(payload.get("response"), dict):
            whole = payload["response"]
        elif kind in ("response.output_item.added", "response.output_item.done"):
            if isinstance(item := payload.get("item"), dict):
                items[_index(payload)] = item
        elif kind == "error" or "error" in payload:
            whole["error"] = payload.get("error") or payload
        elif _index(payload) in items:
            _add_item_event(items[_index(payload)], kind, payload)
    if items and not whole.get("output"):
        # The stream broke off, or its last event does not repeat the items.
        whole["output"] = [items[index] for index in sorted(items)]
    return whole


def _index(payload: Json) -> int:
    index = payload.get("output_index")
    return index if isinstance(index, int) else -1


def _add_item_event(item: Json, kind: str, payload: Json) -> None:
    if kind in ("response.content_part.added", "response.content_part.done"):
        _put(item, "content", payload.get("content_index"), payload.get("part"))
    elif kind == "response.output_text.delta":
        _grow(_at(item, "content", payload.get("content_index")), "text", payload.get("delta"))
    elif kind == "response.refusal.delta":
        _grow(_at(item, "content", payload.get("content_index")), "refusal", payload.get("delta"))
    elif kind == "response.function_call_arguments.delta":
        _grow(item, "arguments", payload.get("delta"))
    elif kind == "response.reasoning_summary_part.added":
        _put(item, "summary", payload.get("summary_index"), payload.get("part"))
    elif kind == "response.reasoning_summary_text.delta":
        _grow(_at(item, "summary", payload.get("summary_index")), "text", payload.get("delta"))


def _put(item: Json, name: str, index: Any, part: Any) -> None:
    if isinstance(part, dict):
        target = _at(item, name, index)
        target.clear()
        target.update(part)


def _at(item: Json, name: str, index: Any) -> Json:
    """The part with this number, made where it is the next one."""
    parts = item.get(name)
    if not isinstance(parts, list):
        parts = item[name] = []
    if not isinstance(index, int) or not 0 <= index <= len(parts):
        return {}
    if index == len(parts):
        parts.append({})
    part: Json = parts[index]
    return part


def _embeddings(_: Iterator[Json]) -> Json:
    return {}


_WHOLE: dict[DialectName, Callable[[Iterator[Json]], Json]] = {
    "chat": _chat,
    "completions": _completions,
    "embeddings": _embeddings,
    "responses": _responses,
    "messages": _messages,
}
