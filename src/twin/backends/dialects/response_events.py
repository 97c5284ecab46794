"""The events of a `responses` stream, numbered: what says that an item, a part or the whole begins,
grows and ends. Keeps no state but the number; who calls knows what is open."""

from collections.abc import Callable

from twin.backends.dialects.blocks import Json

_END_EVENTS = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "failed": "response.failed",
}


class ResponseEvents:
    def __init__(self, send: Callable[[Json, str], None]) -> None:
        self._send = send
        self._number = 0

    def next_number(self) -> int:
        self._number += 1
        return self._number - 1

    def emit(self, kind: str, **fields: object) -> None:
        event: Json = {"type": kind, "sequence_number": self.next_number(), **fields}
        self._send(event, kind)

    def begin(self, response: Json) -> None:
        self.emit("response.created", response=response)
        self.emit("response.in_progress", response=response)

    def finish(self, response: Json) -> None:
        kind = _END_EVENTS.get(str(response.get("status")), "response.completed")
        self.emit(kind, response=response)

    def begin_item(self, index: int, item: Json) -> None:
        self.emit("response.output_item.added", output_index=index, item=item)

    def end_item(self, index: int, item: Json) -> None:
        self.emit("response.output_item.done", output_index=index, item=item)

    def begin_part(self, index: int, item: Json, number: int) -> None:
        part = item["content"][number]
        self.emit("response.content_part.added", item_id=item["id"], output_index=index,
                  content_index=number, part=part)  # fmt: skip

    def part_delta(
        self, index: int, item: Json, number: int, delta: str, logprobs: list[Json]
    ) -> None:
        place = {"item_id": item["id"], "output_index": index, "content_index": number}
        if item["content"][number]["type"] == "output_text":
            self.emit("response.output_text.delta", **place, delta=delta, logprobs=logprobs)
        else:
            self.emit("response.refusal.delta", **place, delta=delta)

    def end_part(self, index: int, item: Json, number: int) -> None:
        place = {"item_id": item["id"], "output_index": index, "content_index": number}
        part = item["content"][number]
        if part["type"] == "output_text":
            logprobs = part.get("logprobs") or []
            self.emit("response.output_text.done", **place, text=part["text"], logprobs=logprobs)
        elif part["type"] == "refusal":
            self.emit("response.refusal.done", **place, refusal=part["refusal"])
        self.emit("response.content_part.done", **place, part=part)

    def begin_summary(self, index: int, item_id: str, number: int = 0) -> None:
        self.emit("response.reasoning_summary_part.added", item_id=item_id, output_index=index,
                  summary_index=number, part={"type": "summary_text", "text": ""})  # fmt: skip

    def summary_delta(self, index: int, item_id: str, delta: str, number: int = 0) -> None:
        self.emit("response.reasoning_summary_text.delta", item_id=item_id, output_index=index,
                  summary_index=number, delta=delta)  # fmt: skip

    def end_summary(self, index: int, item: Json, number: int = 0) -> None:
        part = item["summary"][number]
        place = {"item_id": item["id"], "output_index": index, "summary_index": number}
        self.emit("response.reasoning_summary_text.done", **place, text=part["text"])
        self.emit("response.reasoning_summary_part.done", **place, part=part)

    def call_delta(self, index: int, item_id: str, delta: str) -> None:
        self.emit("response.function_call_arguments.delta", item_id=item_id, output_index=index,
                  delta=delta)  # fmt: skip

    def end_call(self, index: int, item: Json) -> None:
        self.emit("response.function_call_arguments.done", item_id=item["id"], output_index=index,
                  name=item["name"], arguments=item["arguments"])  # fmt: skip
        self.end_item(index, item)
