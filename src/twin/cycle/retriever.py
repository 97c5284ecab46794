"""The retriever: the process next to the gateway that finds context for requests.

`python -m twin.cycle.retriever` reads one line of JSON from stdin (`RetrieverSettings`), then a
line per request (`Wanted`), and writes a line per answer (`Found`), until stdin ends. A process of
its own, since ranking takes tens of milliseconds of the interpreter and some 200 MB, which the
gateway's event loop has not to give. Owns how the budget is shared between code and documents;
finds neither itself (`excerpts`, `coding.documents`).
"""

import os
import signal
import sys
import time
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from twin.coding.context import num_tokens
from twin.coding.documents import Documents, FoundSection
from twin.coding.evidence import Words
from twin.coding.retrieve import MAX_QUESTION
from twin.coding.retrieved import (
    Found,
    Piece,
    RetrieverSettings,
    Wanted,
    as_text,
    name_of,
    shown,
)
from twin.config import Config
from twin.cycle.excerpts import Watch
from twin.records import ContextItem

DOCUMENTS_SHARE: Final = 1 / 3
"""Of the budget at most, where there is code to show as well. Notes say how things are done here;
what is to be changed stands in the code, which needs more room."""
ANSWERING_S: Final = 0.2
"""Kept of a request's time for the answer itself when it waits for the repository."""
KEPT_ANSWERS: Final = 64
"""An agent asks the same on each step of its work; the same text again also lets its provider
reuse what it computed."""
_NICENESS: Final = 5


class Retriever:
    """One repository, its documents, and what was found lately."""

    def __init__(self, settings: RetrieverSettings) -> None:
        root = Path(settings.root)
        inject = settings.inject
        self._settings = settings
        self._documents = Documents(root, inject.documents)
        self._next_look = 0.0
        self._watch: Watch | None = None
        if inject.repository:
            config = Config(store=settings.store, mine=settings.mine)
            self._watch = Watch(root, config, settings.look_every_s)
            self._watch.start()
        self._kept: OrderedDict[str, tuple[object, Found]] = OrderedDict()
        self._generation = 0
        """Of the documents."""
        self._empty = num_tokens(as_text([_NOTHING])) - num_tokens(shown(_NOTHING))

    def answer(self, wanted: Wanted) -> Found:
        """What is to be put before the request; empty where nothing is about it or time is up."""
        left_s = wanted.until - time.monotonic()
        if left_s <= 0:
            return Found(number=wanted.number)
        found = self._find(wanted.text.strip()[:MAX_QUESTION], wanted.until - ANSWERING_S)
        notice = self._watch.notice if self._watch is not None else ""
        return msgspec.structs.replace(found, number=wanted.number, notice=notice)

    def _find(self, text: str, until: float) -> Found:
        words = Words.of(text)
        if not len(words):
            return Found()
        excerpts = self._watch.current(until) if self._watch is not None else None
        self._look_at_documents()
        state = (excerpts.key if excerpts is not None else None, self._generation)
        known = self._kept.get(text)
        if known is not None and known[0] == state:
            self._kept.move_to_end(text)
            return known[1]
        budget = self._settings.inject.max_tokens - self._empty
        sections = [_piece(section) for section in self._documents.search(words)]
        notes = _fitting(sections, int(budget * DOCUMENTS_SHARE))
        code: list[Piece] = []
        if excerpts is not None:
            left = budget - _size(notes)
            code = _fitting(excerpts.find(text, words, left), left)
        if not code:
            notes = _fitting(sections, budget)
        found = _as_found([*notes, *code])
        self._kept[text] = state, found
        while len(self._kept) > KEPT_ANSWERS:
            self._kept.popitem(last=False)
        return found

    def _look_at_documents(self) -> None:
        now = time.monotonic()
        if now >= self._next_look:
            self._generation += self._documents.refresh()
            self._next_look = time.monotonic() + self._settings.look_every_s


_NOTHING: Final = Piece(
    source="document", path="", start_line=0, end_line=0, what="", text="", relevance=0.0
)


def _piece(found: FoundSection) -> Piece:
    section = found.section
    parts = section.path.lower().split("/")
    is_memory = "memory" in parts[:-1] or parts[-1].startswith("memory")
    return Piece(
        source="memory" if is_memory else "document",
        path=section.path,
        start_line=section.start_line,
        end_line=section.end_line,
        what=" > ".join(section.trail),
        text=section.text,
        relevance=found.relevance,
    )


def _fitting(pieces: Iterable[Piece], budget: int) -> list[Piece]:
    """The first ones that fit, and smaller ones behind one that does not."""
    kept: list[Piece] = []
    for piece in pieces:
        size = _size([piece])
        if size <= budget:
            kept.append(piece)
            budget -= size
    return kept


def _size(pieces: Iterable[Piece]) -> int:
    return sum(num_tokens(shown(piece) + "\n\n") for piece in pieces)


def _as_found(pieces: list[Piece]) -> Found:
    return Found(
        text=as_text(pieces),
        items=tuple(
            ContextItem(
                source=piece.source,
                name=name_of(piece),
                relevance=round(piece.relevance, 4),
                num_tokens=num_tokens(shown(piece)),
            )
            for piece in pieces
        ),
    )


def main(requests: BinaryIO, answers: BinaryIO) -> int:
    """Answers until `requests` ends or nobody reads `answers`."""
    first = requests.readline()
    if not first:
        return 0  # whoever began it is gone already
    retriever = Retriever(msgspec.json.decode(first, type=RetrieverSettings))
    for line in requests:
        wanted = msgspec.json.decode(line, type=Wanted)
        try:
            found = retriever.answer(wanted)
        except Exception as error:
            # The edge of a request: whatever it is, the next one may go well.
            found = Found(number=wanted.number, notice=f"Retrieving context failed: {error!r}.")
        try:
            answers.write(msgspec.json.encode(found) + b"\n")
            answers.flush()
        except BrokenPipeError:
            break
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the gateway, which ends stdin.
    # Out of the terminal's foreground group, but not into a session of its own: Linux shares the
    # processor between sessions first, and niceness counts only within one.
    os.setpgid(0, 0)
    os.nice(_NICENESS)
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as lines:
        # Whatever a library prints must not stand between the lines.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        code = main(sys.stdin.buffer, lines)
    sys.exit(code)
