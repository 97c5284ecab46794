"""A whole answer as a well-formed stream: what was held back to be judged goes out to a caller who
asked to be streamed to. Each text is one delta."""

from collections.abc import Callable
from typing import Any

import msgspec

from twin.backends.dialects.blocks import Json, answer_object, json_text
from twin.backends.dialects.endings import fresh_id
from twin.backends.dialects.response_events import ResponseEvents
from twin.backends.dialects.streams import DONE
from twin.errors import BackendBroken, Untranslatable
from twin.records import DialectName


class _Out:
    """Collects events as bytes."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def send(self, payload: Json, name: str = "") -> None:
        head = b"event: %s\ndata: " % name.encode() if name else b"data: "
        self.pieces.append(head + msgspec.json.encode(payload) + b"\n\n")


def stream_from_whole(dialect: DialectName, body: bytes, *, include_usage: bool = False) -> bytes:
    """Raises BackendBroken where `body` is no answer of this dialect. `include_usage` is for chat
    and completions, where the caller must have asked for it."""
    if dialect == "embeddings":
        raise Untranslatable("Embeddings are not streamed; ask without `stream`.")
    out = _Out()
    whole = answer_object(body)
    try:
        if dialect in ("chat", "completions"):
            _choices(dialect, whole, out, include_usage)
        else:
            _UNFOLD[dialect](whole, out)
    except (TypeError, AttributeError, LookupError):
        raise BackendBroken(
            f"The model's answer is none of the dialect `{dialect}`; check the model's provider."
        ) from None
    return b"".join(out.pieces)


def _choices(dialect: DialectName, whole: Json, out: _Out, include_usage: bool) -> None:
    frame = {key: value for key, value in whole.items() if key not in ("choices", "usage")}
    if dialect == "chat":
        frame["object"] = "chat.completion.chunk"
    for choice in whole["choices"]:
        deltas = _chat_deltas(choice) if dialect == "chat" else _text_deltas(choice)
        for delta in deltas:
            out.send({**frame, "choices": [{"index": choice.get("index") or 0, **delta}]})
    if include_usage and whole.get("usage"):
        out.send({**frame, "choices": [], "usage": whole["usage"]})
    out.pieces.append(DONE)


def _chat_deltas(choice: Json) -> list[Json]:
    message = choice.get("message") or {}
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    logprobs: Any = choice.get("logprobs")
    for key, value in message.items():
        if key == "tool_calls":
            for number, call in enumerate(value or []):
                deltas.append({"tool_calls": [{"index": number, **call}]})
        elif key != "role" and value:
            deltas.append({key: value})
    out = []
    for delta in deltas:
        told = logprobs if delta.get("content") or delta.get("refusal") else None
        logprobs = None if told else logprobs
        out.append({"delta": delta, "logprobs": told, "finish_reason": None})
    finish = choice.get("finish_reason")
    return [*out, {"delta": {}, "logprobs": logprobs, "finish_reason": finish}]


def _text_deltas(choice: Json) -> list[Json]:
    text = {"text": choice.get("text") or "", "logprobs": choice.get("logprobs")}
    ending = {"text": "", "logprobs": None, "finish_reason": choice.get("finish_reason")}
    return [{**text, "finish_reason": None}, ending]


def _messages(whole: Json, out: _Out) -> None:
    usage = whole.get("usage") or {}
    start = {
        **whole,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**usage, "output_tokens": 0},
    }
    start.pop("stop_details", None)
    out.send({"type": "message_start", "message": start}, "message_start")
    for index, block in enumerate(whole["content"]):
        empty, deltas = _block_deltas(block)
        begin = {"type": "content_block_start", "index": index, "content_block": empty}
        out.send(begin, "content_block_start")
        for delta in deltas:
            piece = {"type": "content_block_delta", "index": index, "delta": delta}
            out.send(piece, "content_block_delta")
        out.send({"type": "content_block_stop", "index": index}, "content_block_stop")
    delta = {name: whole.get(name) for name in ("stop_reason", "stop_sequence")}
    if whole.get("stop_details"):
        delta["stop_details"] = whole["stop_details"]
    ending = {"type": "message_delta", "delta": delta,
              "usage": {**usage, "output_tokens": usage.get("output_tokens") or 0}}  # fmt: skip
    out.send(ending, "message_delta")
    out.send({"type": "message_stop"}, "message_stop")


def _block_deltas(block: Json) -> tuple[Json, list[Json]]:
    """The block as it begins, and what it grows by; one of an unknown type begins whole."""
    kind = block.get("type")
    if kind == "text":
        deltas = [{"type": "text_delta", "text": block["text"]}]
        for citation in block.get("citations") or []:
            deltas.append({"type": "citations_delta", "citation": citation})
        return {"type": "text", "text": ""}, deltas
    if kind == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": block["thinking"]}]
        if block.get("signature"):
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return {"type": "thinking", "thinking": "", "signature": ""}, deltas
    if kind in ("tool_use", "server_tool_use"):
        partial = json_text(block.get("input") or {})
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": partial}]
    return block, []


def _responses(whole: Json, out: _Out) -> None:
    events = ResponseEvents(out.send)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None,
             "incomplete_details": None, "error": None}  # fmt: skip
    events.begin(begun)
    for index, item in enumerate(whole["output"]):
        _item(events, index, item)
    events.finish(whole)


def _item(events: ResponseEvents, index: int, item: Json) -> None:
    kind = item.get("type")
    item = {**item, "id": item.get("id") or fresh_id("item_")} if kind != "function_call" else item
    if kind == "message":
        parts = item["content"]
        begun: Json = {**item, "status": "in_progress", "content": []}
        events.begin_item(index, begun)
        for number, part in enumerate(parts):
            field = "refusal" if part.get("type") == "refusal" else "text"
            empty = {**part, field: ""} | ({"logprobs": []} if field == "text" else {})
            begun["content"].append(empty)
            events.begin_part(index, begun, number)
            logprobs = part.get("logprobs") or []
            events.part_delta(index, begun, number, part.get(field) or "", logprobs)
            events.end_part(index, item, number)
    elif kind == "function_call":
        item = {**item, "id": item.get("id") or fresh_id("fc_")}
        events.begin_item(index, {**item, "status": "in_progress", "arguments": ""})
        events.call_delta(index, item["id"], item["arguments"])
        events.end_call(index, item)
        return
    elif kind == "reasoning":
        events.begin_item(index, {**item, "summary": []})
        for number, part in enumerate(item.get("summary") or []):
            events.begin_summary(index, item["id"], number)
            events.summary_delta(index, item["id"], part.get("text") or "", number)
            events.end_summary(index, item, number)
    else:
        events.begin_item(index, item)
    events.end_item(index, item)


_UNFOLD: dict[DialectName, Callable[[Json, _Out], None]] = {
    "messages": _messages,
    "responses": _responses,
}
