"""Anthropic's events as a chat stream, and a chat stream as one of the old `completions`."""

from typing import Any

from twin.backends.dialects.answers import completion_finish, completion_logprobs, refusal_of
from twin.backends.dialects.blocks import Json, json_text
from twin.backends.dialects.endings import chat_usage, finish_reason, id_from, now
from twin.backends.dialects.streams import DONE, EventTranslator
from twin.records import DialectName


class MessagesToChat(EventTranslator):
    target: DialectName = "chat"

    def __init__(self, model: str, request_id: str = "", *, include_usage: bool = False) -> None:
        super().__init__(model, request_id)
        self._include_usage = include_usage
        self._id = ""
        self._created = now()
        self._usage: Json = {}
        self._ending: Json | None = None
        self._has_text = False
        self._call_of_block: dict[Any, int] = {}
        self._unsaid_input: dict[Any, Any] = {}
        """Inputs of calls whose arguments have not been said yet, by block."""

    def take(self, name: str, payload: Json) -> None:
        kind = payload.get("type")
        if kind == "message_start":
            message = payload["message"]
            self._id = id_from(message.get("id"), "chatcmpl-")
            usage = message.get("usage")
            self._usage = usage if isinstance(usage, dict) else {}
            self._send_delta({"role": "assistant", "content": ""})
        elif kind == "content_block_start":
            self._start_block(payload.get("index"), payload["content_block"])
        elif kind == "content_block_delta":
            self._block_delta(payload.get("index"), payload["delta"])
        elif kind == "content_block_stop" and payload.get("index") in self._unsaid_input:
            given = self._unsaid_input.pop(payload.get("index"))
            self._send_arguments(payload.get("index"), json_text(given))
        elif kind == "message_delta":
            ending, usage = payload["delta"], payload.get("usage") or {}
            if not isinstance(ending, dict):
                raise TypeError("no object")
            self._ending = ending
            self._usage |= {name: value for name, value in usage.items() if value is not None}
        elif kind == "message_stop":
            self.close()

    def may_close(self) -> bool:
        return self._ending is not None

    def close(self) -> None:
        ending = self._ending or {}
        if (refusal := refusal_of(ending)) and not self._has_text:
            self._send_delta({"refusal": refusal})
        self._send_delta({}, finish_reason(ending.get("stop_reason")))
        if self._include_usage:
            self.send({**self._frame(), "choices": [], "usage": chat_usage(self._usage)})
        self.send_raw(DONE)
        self.is_over = True

    def _start_block(self, index: Any, block: Json) -> None:
        kind = block.get("type")
        if kind == "text" and block.get("text"):
            self._block_delta(index, {"type": "text_delta", "text": block["text"]})
        elif kind == "thinking" and block.get("thinking"):
            self._block_delta(index, {"type": "thinking_delta", "thinking": block["thinking"]})
        elif kind == "tool_use":
            number = self._call_of_block[index] = len(self._call_of_block)
            self._unsaid_input[index] = block.get("input") or {}
            function = {"name": block.get("name"), "arguments": ""}
            call = {"index": number, "id": block.get("id"), "type": "function",
                    "function": function}  # fmt: skip
            self._send_delta({"tool_calls": [call]})

    def _block_delta(self, index: Any, delta: Json) -> None:
        kind = delta.get("type")
        if kind == "text_delta":
            self._has_text = True
            self._send_delta({"content": delta["text"]})
        elif kind == "thinking_delta":
            self._send_delta({"reasoning_content": delta["thinking"]})
        elif kind == "input_json_delta" and delta.get("partial_json") and self._is_call(index):
            self._unsaid_input.pop(index, None)
            self._send_arguments(index, delta["partial_json"])

    def _is_call(self, index: Any) -> bool:
        return index in self._call_of_block

    def _send_arguments(self, index: Any, text: str) -> None:
        call = {"index": self._call_of_block[index], "function": {"arguments": text}}
        self._send_delta({"tool_calls": [call]})

    def _send_delta(self, delta: Json, finish: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        self.send({**self._frame(), "choices": [choice]})

    def _frame(self) -> Json:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self.model,
        }


class ChatToCompletions(EventTranslator):
    target: DialectName = "completions"

    def __init__(self, model: str, request_id: str = "", *, include_usage: bool = False) -> None:
        super().__init__(model, request_id)
        self._include_usage = include_usage
        self._frame: Json = {}
        self._usage: Any = None
        self._is_finished = False
        self._offsets: dict[int, int] = {}

    def take(self, name: str, payload: Json) -> None:
        if not self._frame:
            self._frame = {
                "id": id_from(payload.get("id"), "cmpl-"),
                "object": "text_completion",
                "created": payload.get("created") or now(),
                "model": self.model,
            }
        self._usage = payload.get("usage") or self._usage
        if choices := [out for each in payload.get("choices") or [] if (out := self._choice(each))]:
            self.send({**self._frame, "choices": choices})

    def may_close(self) -> bool:
        return self._is_finished

    def close(self) -> None:
        if self._include_usage and self._usage:
            self.send({**self._frame, "choices": [], "usage": self._usage})
        self.send_raw(DONE)
        self.is_over = True

    def _choice(self, choice: Json) -> Json | None:
        delta = choice.get("delta") or {}
        text = delta.get("content") or delta.get("refusal") or ""
        finish = choice.get("finish_reason")
        self._is_finished = self._is_finished or finish is not None
        if not text and finish is None:
            return None
        index = choice.get("index") or 0
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + len(text)
        return {
            "index": index,
            "text": text,
            "logprobs": completion_logprobs(choice.get("logprobs"), offset),
            "finish_reason": completion_finish(finish),
        }
