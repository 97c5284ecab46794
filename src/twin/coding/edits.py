"""Search/replace blocks: how a change of one file is written, read and made.

A block is a piece of the file as it is and what takes its place. Every search text stands exactly
once in the file, and all blocks are looked for in the file as it was before any of them. Owns the
form (`as_text`, `read_blocks`), the blocks between two texts (`blocks_of`) and their application.
Works on text; which file it is, and whether the change is any good, is not known here.

    <<<<<<< SEARCH
    the lines as they are
    =======
    the lines that take their place
    >>>>>>> REPLACE

The marks are one sign longer than whatever in the text looks like them. No lines at all are the
empty text: to search for it means that the file is empty, or not there yet.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from twin.errors import BadEdits

MAX_BYTES: Final = 200_000
"""Of one side. Larger sources are tables or machine-written; nobody asks a model to edit them."""
MAX_ANSWER: Final = 2_000_000
"""Characters of blocks that are read."""
MAX_PAIRINGS: Final = 2_000_000
"""Pairs of equal lines that are compared; files that repeat themselves more are taken as one."""

_BEGIN: Final = re.compile(r"(<{7,}) SEARCH")
_RUN: Final = re.compile(r"^(?:<+|=+|>+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One piece of a change."""

    search: str
    replace: str


@dataclass(slots=True)
class _Span:
    """Lines [a, b) before, and [c, d) after, which take their place."""

    a: int
    b: int
    c: int
    d: int
    grown: int = 0


def text_of(data: bytes | None) -> str | None:
    """A file's content as text that blocks can change: None where it is binary, not UTF-8 or too
    large. A file that is not there has the empty text."""
    if data is None:
        return ""
    if len(data) > MAX_BYTES or b"\0" in data:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def blocks_of(before: str, after: str) -> tuple[Block, ...]:
    """The blocks that make `after` of `before`, in order; none where they are equal.

    Each takes as many whole lines around its change as make its search text unique, and no more.
    """
    if before == after:
        return ()
    old, new = before.split("\n"), after.split("\n")
    waiting = list(reversed(list(_changes(old, new))))
    found: list[_Span] = []
    while waiting:
        span = waiting.pop()
        while not _is_enough(span, old, before):
            _grow(span, found, waiting, len(old))
        found.append(span)
    return tuple(
        Block(search="\n".join(old[span.a : span.b]), replace="\n".join(new[span.c : span.d]))
        for span in found
    )


def apply(text: str, blocks: Sequence[Block]) -> str:
    """The text with every block's replacement. Raises BadEdits where a search text is missing,
    stands there twice or overlaps with another's."""
    places: list[tuple[int, int, str]] = []
    for number, block in enumerate(blocks, start=1):
        start = text.find(block.search)
        if not block.search and text:
            raise BadEdits(f"Block {number} searches for nothing, and the file is not empty.")
        if start < 0:
            raise BadEdits(
                f"The search text of block {number} is not in the file. Copy it exactly."
            )
        if block.search and text.find(block.search, start + 1) >= 0:
            raise BadEdits(
                f"The search text of block {number} is in the file more than once. Take more lines."
            )
        places.append((start, start + len(block.search), block.replace))
    places.sort(key=lambda place: place[:2])
    made, at = [], 0
    for number, (start, end, replace) in enumerate(places):
        if start < at or (number and start == end):
            raise BadEdits("Two blocks change the same lines. Put them together.")
        made += [text[at:start], replace]
        at = end
    return "".join([*made, text[at:]])


def as_text(blocks: Sequence[Block]) -> str:
    """The blocks as a model writes them; `read_blocks` gives them back."""
    texts = [text for block in blocks for text in (block.search, block.replace)]
    runs = (len(run) for text in texts for run in _RUN.findall(text))
    size = max([6, *runs]) + 1
    return "".join(
        f"{'<' * size} SEARCH\n{_lines(block.search)}{'=' * size}\n"
        f"{_lines(block.replace)}{'>' * size} REPLACE\n"
        for block in blocks
    )


def read_blocks(text: str) -> tuple[Block, ...]:
    """The blocks in a model's answer; what stands between them is passed over.

    Raises BadEdits for a block that does not end, and for an answer that is too long.
    """
    if len(text) > MAX_ANSWER:
        raise BadEdits(f"The edits are longer than {MAX_ANSWER:,} characters. Change less at once.")
    lines = iter(text.split("\n"))
    found: list[Block] = []
    for line in lines:
        begins = _BEGIN.fullmatch(line.rstrip())
        if begins:
            size = len(begins[1])
            search = _until("=" * size, lines, len(found) + 1)
            replace = _until(f"{'>' * size} REPLACE", lines, len(found) + 1)
            found.append(Block(search=search, replace=replace))
    return tuple(found)


def _changes(old: Sequence[str], new: Sequence[str]) -> Iterator[_Span]:
    """Where the lines differ. Lines that both sides begin and end with are not compared."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    left, right = old[start : len(old) - end], new[start : len(new) - end]
    counts = Counter(left)
    if sum(counts[line] for line in right) > MAX_PAIRINGS:
        yield _Span(start, start + len(left), start, start + len(right))
        return
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag != "equal":
            yield _Span(start + a, start + b, start + c, start + d)


def _is_enough(span: _Span, old: Sequence[str], before: str) -> bool:
    if span.a == span.b or span.c == span.d:
        return False  # Without a line on each side a line's end would be missing or left over.
    search = "\n".join(old[span.a : span.b])
    if not search:
        return not before
    return before.find(search, before.find(search) + 1) < 0


def _grow(span: _Span, done: list[_Span], waiting: list[_Span], num_lines: int) -> None:
    """One line more, above and below in turn; a neighbour in the way becomes part of it."""
    can_rise = span.a > (done[-1].b if done else 0)
    can_sink = span.b < (waiting[-1].a if waiting else num_lines)
    if can_rise and (span.grown % 2 == 0 or not can_sink):
        span.a, span.c = span.a - 1, span.c - 1
    elif can_sink:
        span.b, span.d = span.b + 1, span.d + 1
    elif waiting:
        neighbour = waiting.pop()
        span.b, span.d = neighbour.b, neighbour.d
    else:
        neighbour = done.pop()
        span.a, span.c = neighbour.a, neighbour.c
    span.grown += 1


def _lines(text: str) -> str:
    return f"{text}\n" if text else ""


def _until(mark: str, lines: Iterator[str], number: int) -> str:
    """The lines up to a mark."""
    found: list[str] = []
    for line in lines:
        if line.rstrip() == mark:
            return "\n".join(found)
        found.append(line)
    raise BadEdits(f"Block {number} of the edits breaks off before `{mark}`. Write it whole.")
