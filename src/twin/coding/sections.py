"""Notes and documents cut into the pieces that can be shown alone: a section under its headings.

Markdown is cut at its headings, longer sections at empty lines, what has neither after so many
lines or characters. Every piece knows its lines. Linear in the text's length, whatever it holds.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from twin.coding.lexical import Bag
from twin.coding.text import count_terms

MAX_LINES: Final = 40
MAX_CHARS: Final = 2_000
"""Of a piece: some 500 tokens, so that several fit beside the code."""
MAX_SECTIONS: Final = 2_000
"""Of one document; nobody writes more by hand."""
MAX_TITLE: Final = 120

_HEADING: Final = re.compile(r" {0,3}(#{1,6})[ \t]+(\S.*)")
_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})")


@dataclass(frozen=True, kw_only=True)
class Section:
    """A piece of a document."""

    path: str
    trail: tuple[str, ...]
    """The headings above it, outermost first, its own one last."""
    start_line: int
    end_line: int
    text: str
    """The lines themselves, its own heading included."""

    @cached_property
    def bag(self) -> Bag:
        """Its words; those of the headings and of the file's name count double."""
        counts = count_terms(self.text)
        for term, count in count_terms(" ".join((self.path, *self.trail))).items():
            counts[term] = counts.get(term, 0) + count
        return Bag.of(counts)


def split(path: str, text: str) -> list[Section]:
    """The pieces of a document that hold words, in its order; `MAX_SECTIONS` at most."""
    found: list[Section] = []
    for trail, start, lines in _under_headings(text.splitlines()):
        for offset, piece in _pieces(lines):
            if len(found) == MAX_SECTIONS:
                return found
            is_heading_alone = len(piece) == 1 and offset == 0 and bool(trail)
            if any(map(str.strip, piece)) and not is_heading_alone:
                found.append(_section(path, trail, start + offset, piece))
    return found


def _section(path: str, trail: tuple[str, ...], start: int, lines: list[str]) -> Section:
    return Section(
        path=path,
        trail=trail,
        start_line=start,
        end_line=start + len(lines) - 1,
        text="\n".join(line[:MAX_CHARS] for line in lines),
    )


def _under_headings(lines: list[str]) -> Iterator[tuple[tuple[str, ...], int, list[str]]]:
    """(headings, number of the first line, lines) of every section."""
    trail: list[str] = []
    start, fence = 0, ""
    for at, line in enumerate(lines):
        heading = None if fence else _HEADING.match(line)
        if heading:
            if at > start:
                yield tuple(filter(None, trail)), start + 1, lines[start:at]
            level = len(heading[1])
            title = heading[2].rstrip(" \t#")[:MAX_TITLE]
            trail = [*trail[: level - 1], *[""] * (level - 1 - len(trail)), title]
            start = at
            continue
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence) and not line.strip(" \t`~"):
            fence = ""
    if len(lines) > start:
        yield tuple(filter(None, trail)), start + 1, lines[start:]


def _pieces(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """(offset, lines) of a section in pieces that are not too long, cut at empty lines if any."""
    begin = size = 0
    gap = -1
    for at, line in enumerate(lines):
        cost = min(len(line), MAX_CHARS) + 1
        while at > begin and (size + cost > MAX_CHARS or at - begin >= MAX_LINES):
            end = gap + 1 if gap > begin else at
            yield begin, _trimmed(lines[begin:end])
            size = sum(min(len(kept), MAX_CHARS) + 1 for kept in lines[end:at])
            begin, gap = end, -1
        size += cost
        if not line.strip():
            gap = at
    yield begin, _trimmed(lines[begin:])


def _trimmed(lines: list[str]) -> list[str]:
    """Without the empty lines at its end."""
    while len(lines) > 1 and not lines[-1].strip():
        lines.pop()
    return lines
