"""What all stream translations share: reading events, writing events, ending well or badly.

A stream that breaks off is never made to look whole: it ends with an error event in the caller's
dialect.
"""

from typing import Any, Protocol

import msgspec

from twin.backends.dialects.blocks import Json, is_json_object
from twin.backends.dialects.faults import error_event
from twin.backends.sse import Event, SseParser
from twin.records import DialectName

DONE = b"data: [DONE]\n\n"
_BROKE_OFF = "The model's answer broke off; ask again."
_UNREADABLE = "The model sent an event that cannot be read; ask again."
_STRANGE = (ValueError, TypeError, AttributeError, LookupError, RecursionError)
"""The decoder's errors are ValueErrors; the others mean a field of a strange type."""


class StreamTranslator(Protocol):
    """Server-sent events in, server-sent events of another dialect out."""

    def feed(self, data: bytes) -> bytes:
        """What can be said after these bytes; often nothing."""

    def end(self) -> bytes:
        """What closes the stream: an error event where the source did not end by itself."""


class AsItIs:
    """Within one dialect nothing changes."""

    def feed(self, data: bytes) -> bytes:
        return data

    def end(self) -> bytes:
        return b""


class Chain:
    """Two translations after one another, by way of chat."""

    def __init__(self, first: StreamTranslator, second: StreamTranslator) -> None:
        self._first = first
        self._second = second

    def feed(self, data: bytes) -> bytes:
        return self._second.feed(self._first.feed(data))

    def end(self) -> bytes:
        return self._second.feed(self._first.end()) + self._second.end()


class EventTranslator:
    """Base of the translations: says what an event does, and keeps what is to be sent."""

    target: DialectName

    def __init__(self, model: str, request_id: str = "") -> None:
        self.model = model
        self.request_id = request_id
        self.is_over = False
        self._parser = SseParser()
        self._out: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        for event in self._parser.feed(data):
            self._take(event)
        return self._flush()

    def end(self) -> bytes:
        for event in self._parser.end():
            # Without its blank line it may be cut; then the stream broke off, which is said below.
            if event.data.strip() == b"[DONE]" or is_json_object(event.data):
                self._take(event)
        if not self.is_over:
            if self.may_close():
                self._close()
            else:
                self.fail(_BROKE_OFF, "upstream_broke_off")
        return self._flush()

    def take(self, name: str, payload: Json) -> None:
        """One event of the source."""
        raise NotImplementedError

    def may_close(self) -> bool:
        """The answer is complete, though the source did not say that it ended."""
        raise NotImplementedError

    def close(self) -> None:
        """Writes what ends a whole answer."""
        raise NotImplementedError

    def fail(self, message: str, code: str) -> None:
        self.is_over = True
        self._out.append(error_event(self.target, message, code, self.request_id))

    def send(self, payload: Json, name: str = "") -> None:
        head = b"event: %s\ndata: " % name.encode() if name else b"data: "
        self._out.append(head + msgspec.json.encode(payload) + b"\n\n")

    def send_raw(self, data: bytes) -> None:
        self._out.append(data)

    def _take(self, event: Event) -> None:
        if self.is_over:
            return
        if event.data.strip() == b"[DONE]":
            # Some servers close so after an error that they did not tell.
            if self.may_close():
                self._close()
            return
        try:
            payload = msgspec.json.decode(event.data)
            if not isinstance(payload, dict):
                raise TypeError("no object")
            if error := error_in(event.event, payload):
                self.fail(*error)
            else:
                self.take(event.event or str(payload.get("type") or ""), payload)
        except _STRANGE:
            self.fail(_UNREADABLE, "upstream_broken")

    def _close(self) -> None:
        """What was kept of earlier events may be of a strange type as well."""
        try:
            self.close()
        except _STRANGE:
            self.fail(_UNREADABLE, "upstream_broken")

    def _flush(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out


def error_in(name: str, payload: Json) -> tuple[str, str] | None:
    """Message and code of an error event of any dialect; None where it is another event."""
    error: Any = payload.get("error")
    if not error and name != "error" and payload.get("type") != "error":
        return None
    if not isinstance(error, dict):
        error = {"message": error} if isinstance(error, str) else payload
    message = error.get("message")
    code = error.get("code") or error.get("type")
    return (
        message if isinstance(message, str) else "The model stopped with an error; ask again.",
        str(code or "upstream_error"),
    )


class CallSlots:
    """Which tool call a chat delta belongs to. Its index should say so; some servers give every
    call the index 0, or none, and only the id tells a new one."""

    def __init__(self) -> None:
        self._by_index: dict[int, int] = {}
        self._ids: list[str] = []

    def slot(self, delta: Json) -> tuple[int, bool]:
        """The call's number, counted in order of appearance, and whether it is new."""
        index, call_id = delta.get("index"), str(delta.get("id") or "")
        if not isinstance(index, int):
            index = len(self._ids) - 1 if self._ids and not call_id else -1
            if call_id in self._ids:
                return self._ids.index(call_id), False
            if index >= 0:
                return index, False
        number = self._by_index.get(index)
        if number is not None and (not call_id or self._ids[number] in ("", call_id)):
            self._ids[number] = self._ids[number] or call_id
            return number, False
        self._ids.append(call_id)
        self._by_index[index] = len(self._ids) - 1
        return len(self._ids) - 1, True
