"""What a run of tests says of itself, line by line, as it happens (`inside` writes it).

A test can write to the descriptor too: a line that means nothing here is passed over.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from twin.coding.sandbox.limits import Ended
from twin.coding.testing.results import Outcome, Selection, TestResult

LEAVE_S: Final = 5.0
"""For pytest to end, once its last test has."""
MAX_TESTS: Final = 200_000
MAX_LINE: Final = 200_000
"""No file of a person is longer; what a test makes up must not fill the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait, and how often to begin again."""

    test_s: float = 60.0
    collect_s: float = 60.0
    max_crashes: int = 10
    """After so many the remaining tests count as not run."""


class Event(msgspec.Struct, frozen=True):
    """One line from `inside`."""

    kind: str
    id: str = ""
    ids: list[str] = []
    outcome: str = ""
    seconds: float = 0.0
    text: str = ""
    code: int = 0
    cpu_s: float = 0.0
    peak: int = 0
    lines: dict[str, list[int]] = {}
    properties: list[tuple[str, str]] = []


_OUTCOMES: Final = frozenset({"passed", "failed", "error", "skipped", "xfailed", "xpassed"})
_decoder = msgspec.json.Decoder(Event)


def event_of(line: bytes) -> Event | None:
    """What a line says; None where it was not `inside` that wrote it."""
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError:
        return None


class Heard:
    """What was heard of one selection."""

    def __init__(self, patience: Patience, selection: Selection) -> None:
        self._test_s = min(patience.test_s, selection.test_s)
        self.results: dict[str, TestResult] = {}
        self.broken: dict[str, str] = {}
        self.unsteady: set[str] = set()
        self.collected: list[str] = []
        self.lines: dict[str, dict[str, int]] = {}
        self.executable: dict[str, int] = {}
        self.running = ""
        self.code: int | None = None
        """Pytest's, once it has come to its end."""
        self.ended: Ended | None = None
        """How its process was over; None where it never began."""

    @property
    def is_regular(self) -> bool:
        """Whether pytest came to its end, and had nothing to complain of but tests."""
        return self.code in (0, 1, 5) or (self.code == 2 and bool(self.broken))

    def take(self, event: Event) -> float:
        """Keeps what it says; how long the next one may take."""
        if event.kind == "start":
            self.running = event.id
        elif event.kind == "end" and len(self.results) < MAX_TESTS:
            self.running = ""
            if event.outcome in _OUTCOMES:
                outcome: Outcome = event.outcome  # type: ignore[assignment]
                found = TestResult(
                    outcome=outcome,
                    seconds=event.seconds,
                    text=event.text,
                    properties=tuple(event.properties),
                )
                earlier = self.results.setdefault(event.id, found)
                if earlier.kind != found.kind:
                    self.unsteady.add(event.id)
        elif event.kind == "broken":
            self.broken[event.id] = event.text
        elif event.kind == "collected":
            self.collected = event.ids[:MAX_TESTS]
        elif event.kind == "lines" and len(self.lines) < MAX_TESTS:
            ran = self.lines.setdefault(event.id, {})
            for path, lines in event.lines.items():
                ran[path] = ran.get(path, 0) | _bits(lines)
        elif event.kind == "executable":
            self.executable = {path: _bits(lines) for path, lines in event.lines.items()}
        elif event.kind == "done":
            self.code = event.code
            return LEAVE_S
        return self._test_s


def _bits(lines: Iterable[int]) -> int:
    found = bytearray(MAX_LINE // 8)
    for line in lines:
        if 0 < line < MAX_LINE:
            found[line // 8] |= 1 << line % 8
    return int.from_bytes(found, "little")


class Hearing:
    """Listens to a sandbox in which one selection runs."""

    def __init__(self, patience: Patience, selection: Selection) -> None:
        self.heard = Heard(patience, selection)
        self._until = time.monotonic() + patience.collect_s

    def hear(self, line: bytes) -> None:
        event = event_of(line)
        if event is not None:
            self._until = time.monotonic() + self.heard.take(event)

    def deadline(self) -> float:
        return self._until
