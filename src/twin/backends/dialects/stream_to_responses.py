"""A chat stream in the events of OpenAI's `responses`."""

from typing import Any

from twin.backends.dialects.answers import (
    call_item,
    message_item,
    reasoning_item,
    reasoning_of,
    response_frame,
    response_status,
    text_part,
    token_logprob,
)
from twin.backends.dialects.blocks import Json
from twin.backends.dialects.endings import fresh_id, id_from, responses_usage
from twin.backends.dialects.faults import error_event
from twin.backends.dialects.response_events import ResponseEvents
from twin.backends.dialects.streams import CallSlots, EventTranslator
from twin.records import DialectName


class ChatToResponses(EventTranslator):
    """The message under way is closed when a call begins; calls stay open until the end, since
    their deltas may come by turns."""

    target: DialectName = "responses"

    def __init__(self, model: str, request_id: str = "") -> None:
        super().__init__(model, request_id)
        self._events = ResponseEvents(self.send)
        self._response: Json = {}
        self._items: list[Json] = []
        self._open: int | None = None
        """The reasoning or message item under way."""
        self._slots = CallSlots()
        self._item_of_call: dict[int, int] = {}
        self._finish: Any = None
        self._usage: Any = None

    def take(self, name: str, payload: Json) -> None:
        if not self._response:
            response_id = id_from(payload.get("id"), "resp_")
            self._response = response_frame(response_id, self.model, payload.get("created"))
            self._events.begin(self._response)
        self._usage = payload.get("usage") or self._usage
        for choice in payload.get("choices") or []:
            if (choice.get("index") or 0) == 0:
                self._delta(choice.get("delta") or {}, choice.get("logprobs"))
                self._finish = choice.get("finish_reason") or self._finish

    def may_close(self) -> bool:
        return self._finish is not None

    def close(self) -> None:
        status, details = response_status(self._finish)
        self._close_item(status)
        for index in self._item_of_call.values():
            self._items[index]["status"] = "completed"
            self._items[index]["arguments"] = self._items[index]["arguments"] or "{}"
            self._events.end_call(index, self._items[index])
        whole = self._response | {
            "status": status,
            "incomplete_details": details,
            "output": self._items,
            "usage": responses_usage(self._usage) if self._usage else None,
        }
        self._events.finish(whole)
        self.is_over = True

    def fail(self, message: str, code: str) -> None:
        self.is_over = True
        number = self._events.next_number()
        self.send_raw(
            error_event("responses", message, code, self.request_id, sequence_number=number)
        )

    def _delta(self, delta: Json, logprobs: Any) -> None:
        if thinking := reasoning_of(delta):
            self._think(thinking)
        if text := delta.get("content"):
            tokens = (logprobs or {}).get("content") or []
            self._say("output_text", text, [token_logprob(token) for token in tokens])
        if refusal := delta.get("refusal"):
            self._say("refusal", refusal, [])
        for call in delta.get("tool_calls") or []:
            self._call(call)

    def _think(self, text: str) -> None:
        index = self._item("reasoning")
        item = self._items[index]
        if not item["summary"]:
            item["summary"].append({"type": "summary_text", "text": ""})
            self._events.begin_summary(index, item["id"])
        item["summary"][0]["text"] += text
        self._events.summary_delta(index, item["id"], text)

    def _say(self, kind: str, text: str, tokens: list[Json]) -> None:
        index = self._item("message")
        item = self._items[index]
        field = "text" if kind == "output_text" else "refusal"
        if not item["content"] or item["content"][-1]["type"] != kind:
            if item["content"]:
                self._events.end_part(index, item, len(item["content"]) - 1)
            empty = text_part("") if kind == "output_text" else {"type": kind, "refusal": ""}
            item["content"].append(empty)
            self._events.begin_part(index, item, len(item["content"]) - 1)
        part = item["content"][-1]
        part[field] += text
        if tokens:
            part["logprobs"] += tokens
        self._events.part_delta(index, item, len(item["content"]) - 1, text, tokens)

    def _call(self, call: Json) -> None:
        function = call.get("function") or {}
        slot, is_new = self._slots.slot(call)
        if is_new:
            self._close_item("completed")
            item = call_item(fresh_id("fc_"), call.get("id"), function.get("name"), "", False)
            self._item_of_call[slot] = self._add(item)
        index = self._item_of_call[slot]
        if arguments := function.get("arguments"):
            self._items[index]["arguments"] += arguments
            self._events.call_delta(index, self._items[index]["id"], arguments)

    def _item(self, kind: str) -> int:
        """The number of the open item of this kind, opened where it is not."""
        if self._open is not None and self._items[self._open]["type"] == kind:
            return self._open
        self._close_item("completed")
        if kind == "reasoning":
            item = reasoning_item(fresh_id("rs_"), "")
        else:
            item = message_item(fresh_id("msg_"), [], "in_progress")
        self._open = self._add(item)
        return self._open

    def _add(self, item: Json) -> int:
        self._items.append(item)
        self._events.begin_item(len(self._items) - 1, item)
        return len(self._items) - 1

    def _close_item(self, status: str) -> None:
        if self._open is None:
            return
        item = self._items[self._open]
        if item["type"] == "reasoning":
            self._events.end_summary(self._open, item)
        else:
            item["status"] = status
            self._events.end_part(self._open, item, len(item["content"]) - 1)
        self._events.end_item(self._open, item)
        self._open = None
