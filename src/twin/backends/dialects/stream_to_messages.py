"""A chat stream in Anthropic's events."""

from typing import Any

from twin.backends.dialects.answers import reasoning_of
from twin.backends.dialects.blocks import Json
from twin.backends.dialects.endings import fresh_id, id_from, messages_usage, stop_reason
from twin.backends.dialects.streams import CallSlots, EventTranslator
from twin.records import DialectName

_EMPTY: dict[str, Json] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}


class ChatToMessages(EventTranslator):
    """One content block is open at a time. The prompt's tokens are known only at the end of a chat
    stream, so that `message_start` says 0 and `message_delta` corrects it."""

    target: DialectName = "messages"

    def __init__(self, model: str, request_id: str = "") -> None:
        super().__init__(model, request_id)
        self._has_started = False
        self._open: int | None = None
        self._open_kind = ""
        self._num_blocks = 0
        self._slots = CallSlots()
        self._block_of_call: dict[int, int] = {}
        self._finish: Any = None
        self._is_refusal = False
        self._usage: Any = None

    def take(self, name: str, payload: Json) -> None:
        if not self._has_started:
            self._start(payload)
        self._usage = payload.get("usage") or self._usage
        for choice in payload.get("choices") or []:
            if (choice.get("index") or 0) == 0:
                self._delta(choice.get("delta") or {})
                self._finish = choice.get("finish_reason") or self._finish

    def may_close(self) -> bool:
        return self._finish is not None

    def close(self) -> None:
        self._stop_block()
        stop = stop_reason(
            self._finish, has_calls=bool(self._block_of_call), is_refusal=self._is_refusal
        )
        usage = messages_usage(self._usage) if self._usage else {"output_tokens": 0}
        delta = {"stop_reason": stop, "stop_sequence": None}
        self._emit({"type": "message_delta", "delta": delta, "usage": usage})
        self._emit({"type": "message_stop"})
        self.is_over = True

    def _emit(self, event: Json) -> None:
        self.send(event, event["type"])

    def _start(self, payload: Json) -> None:
        self._has_started = True
        message: Json = {
            "id": id_from(payload.get("id"), "msg_"),
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": messages_usage(payload.get("usage")),
        }
        self._emit({"type": "message_start", "message": message})

    def _delta(self, delta: Json) -> None:
        if thinking := reasoning_of(delta):
            self._say("thinking", {"type": "thinking_delta", "thinking": thinking})
        if text := delta.get("content"):
            self._say("text", {"type": "text_delta", "text": text})
        if refusal := delta.get("refusal"):
            self._is_refusal = True
            self._say("text", {"type": "text_delta", "text": refusal})
        for call in delta.get("tool_calls") or []:
            self._call(call)

    def _say(self, kind: str, delta: Json) -> None:
        if self._open_kind != kind:
            self._start_block(kind, _EMPTY[kind])
        self._emit({"type": "content_block_delta", "index": self._open, "delta": delta})

    def _call(self, call: Json) -> None:
        function = call.get("function") or {}
        slot, is_new = self._slots.slot(call)
        if is_new:
            self._block_of_call[slot] = self._num_blocks
            call_id = call.get("id") or fresh_id("toolu_")
            block: Json = {"type": "tool_use", "id": call_id, "name": function.get("name") or "",
                     "input": {}}  # fmt: skip
            self._start_block("tool_use", block)
        if arguments := function.get("arguments"):
            # Deltas of an earlier call may still come; the index says whose they are.
            delta = {"type": "input_json_delta", "partial_json": arguments}
            index = self._block_of_call[slot]
            self._emit({"type": "content_block_delta", "index": index, "delta": delta})

    def _start_block(self, kind: str, block: Json) -> None:
        self._stop_block()
        self._open, self._open_kind = self._num_blocks, kind
        self._num_blocks += 1
        self._emit({"type": "content_block_start", "index": self._open, "content_block": block})

    def _stop_block(self) -> None:
        if self._open is not None:
            self._emit({"type": "content_block_stop", "index": self._open})
        self._open, self._open_kind = None, ""
