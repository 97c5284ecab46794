"""Server-sent events from bytes, piece by piece, as the WHATWG specification reads them.

Owns the framing only: lines, fields, the buffer and its bound. What an event's data means is the
dialect's. Works on bytes throughout: a line end never lies inside a UTF-8 sequence, so that pieces
may be cut anywhere.
"""

import msgspec

from twin.errors import BackendBroken

BOM = b"\xef\xbb\xbf"
MAX_EVENT_BYTES = 16_000_000
"""Larger than any answer: a `response.completed` event repeats the whole of it."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One dispatched event."""

    event: str
    """Its type; empty where the stream named none (the specification's `message`)."""
    data: bytes
    """All `data` lines joined by a line feed, as they came: nobody checked that it is UTF-8."""


class SseParser:
    """Feed it what arrives; it gives the events that are complete. `id` and `retry` are ignored:
    nothing here reconnects."""

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._limit = max_event_bytes
        self._pieces: list[bytes] = []
        """The unfinished event; its first byte is no line feed."""
        self._size = 0
        self._is_after_cr = False
        self._head: bytes | None = b""
        """The first bytes, until it is known whether they are a byte order mark."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes. Raises BackendBroken where one is larger than
        allowed."""
        if self._head is not None:
            data = self._without_bom(data)
        if self._is_after_cr or b"\r" in data:
            data = self._with_line_feeds(data)
        if not self._pieces:
            # Blank lines before an event mean nothing.
            data = data.lstrip(b"\n")
        if not data:
            return []
        may_end = b"\n\n" in data or (data[:1] == b"\n" and self._pieces[-1][-1:] == b"\n")
        self._pieces.append(data)
        self._size += len(data)
        if not may_end:
            # Joining only where an event ends keeps many small pieces linear. The line feed that
            # ends the last line may be there already, so it does not count.
            self._check(self._size - 1)
            return []
        buffer = data if len(self._pieces) == 1 else b"".join(self._pieces)
        *blocks, rest = buffer.split(b"\n\n")
        rest = rest.lstrip(b"\n")
        self._pieces = [rest] if rest else []
        self._size = len(rest)
        self._check(self._size - 1)
        return [event for block in blocks if (event := self._event(block)) is not None]

    def end(self) -> list[Event]:
        """What was under way when the stream ended. The specification drops it; some servers close
        right after their last line, and what is cut in the middle does not parse further up."""
        block = b"".join(self._pieces)
        self._pieces, self._size, self._head = [], 0, None
        event = self._event(block.rstrip(b"\n")) if block else None
        return [] if event is None else [event]

    def _event(self, block: bytes) -> Event | None:
        block = block.lstrip(b"\n")
        self._check(len(block))
        if block[:6] == b"data: " and b"\n" not in block:
            return Event("", block[6:])
        name = b""
        lines: list[bytes] = []
        for line in block.split(b"\n"):
            field, _, value = line.partition(b":")
            if field == b"data":
                lines.append(value[1:] if value[:1] == b" " else value)
            elif field == b"event":
                name = value[1:] if value[:1] == b" " else value
        return Event(name.decode("utf-8", "replace"), b"\n".join(lines)) if lines else None

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise BackendBroken(
                f"The model's stream holds an event of more than {self._limit} bytes; ask for a"
                " shorter answer, or check that the address is a model's."
            )

    def _without_bom(self, data: bytes) -> bytes:
        head = (self._head or b"") + data
        if len(head) < len(BOM) and BOM.startswith(head):
            self._head = head
            return b""
        self._head = None
        return head.removeprefix(BOM)

    def _with_line_feeds(self, data: bytes) -> bytes:
        """CR LF and CR as LF. A CR counts at once, so that an event is not held back; the LF that
        may follow it in the next piece is swallowed there."""
        if not data:
            return data
        if self._is_after_cr and data[:1] == b"\n":
            data = data[1:]
        self._is_after_cr = data[-1:] == b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
