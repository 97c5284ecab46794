"""One blob to one `ParsedFile`: symbols, imports, references, documentation, reasons.

Owns the walk over tree-sitter's matches, the same for every language, and the bytes in which a
result is cached. Depends on nothing but the blob and its language, so a result is valid for ever;
what a language looks like is in `grammars`. Does not read repositories and resolves nothing.
"""

import re
from bisect import bisect_right
from collections import defaultdict
from functools import cache
from typing import Final, NamedTuple

import msgspec
from tree_sitter import Node, Parser, Query, QueryCursor

from twin.coding.grammars import GRAMMARS, Grammar
from twin.records import Import, ParsedFile, Reference, Symbol, SymbolKind

__all__ = [
    "PARSER_VERSION",
    "Outline",
    "decode",
    "decode_outline",
    "encode",
    "parse",
]

PARSER_VERSION: Final = 3
"""Raise with every change of what `parse` or `encode` return: cached results are then made anew."""

MAX_SIGNATURE: Final = 300
MAX_DOCSTRING: Final = 400
MAX_RATIONALE: Final = 300
MAX_RATIONALES: Final = 64
MAX_REFERENCES: Final = 4000
"""Characters and entries kept. One machine-written file must not outweigh the rest of the cache."""

MAX_BARE_TOKENS: Final = 10_000
MAX_DEPTH: Final = 1_000
"""Levels of the syntax tree at which a match may start. A query's time grows with the square of the
depth, and code that people write stays below a hundred levels."""
LONG_FILE: Final = 20_000
"""Bytes above which a file is searched for runs of punctuation; shorter ones cannot take long."""

# Lower case and no `\b` in front: only so can `re` skip ahead to the possible first letters.
_REASON: Final = re.compile(
    r"(?:because|since|so that|otherwise|due to|in order to|on purpose|deliberate(?:ly)?"
    r"|intentional(?:ly)?|rationale|reasons?|why|note|nb|n\.b\.|hack|kludge|work[- ]?around"
    r"|caveat|careful|warning|important|beware|must not|do not|don't|instead of|avoids?|prevents?"
    r"|unfortunately|backwards? compat\w*|legacy|fixme|todo|xxx|see (?:also|issue|#\d+|https?))"
    r"(?!\w)"
)
_MARKERS: Final = re.compile(
    r"^[ \t]*(?:#+[:!]?|//+!?|/\*[*!]*|\*+/?)[ \t]?|\*+/[ \t]*$", re.MULTILINE
)
_LICENCE: Final = re.compile(rb"copyright|licen[cs]e|SPDX", re.IGNORECASE)
_STRING: Final = rb"""("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|"""
_HASH_COMMENT: Final = re.compile(_STRING + rb"#[^\n]*", re.DOTALL)
_SLASH_COMMENT: Final = re.compile(_STRING + rb"//[^\n]*|/\*.*?\*/", re.DOTALL)
_BETWEEN: Final = re.compile(rb"[ \t]*\r?\n?[ \t]*(?:#\[[^\n]*\n[ \t]*)*\Z")
"""What may stand between a comment and the definition that it documents."""

_STEP: Final = 1_000
_PUNCTUATION: Final = re.compile(rb"[^\w\"'`\x80-\xff]{%d,}+" % _STEP)
_NOT_NEWLINE: Final = re.compile(rb"[^\n]")

_OWNERS: Final = frozenset({"class", "enum", "interface", "scope", "struct", "trait"})


class _Definition(NamedTuple):
    """A symbol or scope before nesting is known; sorts in source order, outer before inner."""

    start: int
    negative_end: int
    name: str
    kind: str
    node: Node
    body: int
    owner: str


class _Machine(NamedTuple):
    grammar: Grammar
    parser: Parser
    query: Query
    kinds: tuple[str, ...]


@cache
def _machine(language: str) -> _Machine:
    grammar = GRAMMARS[language]()
    query = Query(grammar.language, "\n".join(pattern for _, pattern in grammar.patterns))
    kinds = tuple(kind for kind, _ in grammar.patterns)
    assert query.pattern_count == len(kinds), f"{language}: one tree-sitter pattern per entry"
    return _Machine(grammar, Parser(grammar.language), query, kinds)


def parse(data: bytes, language: str) -> ParsedFile:
    """Reads one file. Never fails on its contents: what cannot be read is left out and
    `has_errors` is set."""
    machine = _machine(language)
    source = _clean(data)
    root = machine.parser.parse(source).root_node
    if root.has_error and _is_flat(root):
        return ParsedFile(language=language, num_lines=_num_lines(source), has_errors=True)
    return _Reading(machine, source, language).read(root)


def _is_flat(root: Node) -> bool:
    """Whether broken code left thousands of bare tokens side by side. A query needs time quadratic
    in their number, and cannot be stopped (the binding, 0.26, crashes when asked to)."""
    stack = [root]
    while stack:
        node = stack.pop()
        if node.child_count - node.named_child_count > MAX_BARE_TOKENS:
            return True
        stack.extend(child for child in node.children if child.has_error)
    return False


def _num_lines(source: bytes) -> int:
    return source.count(b"\n") + (source[-1:] not in (b"\n", b""))


def _clean(data: bytes) -> bytes:
    """Drops a byte order mark; blanks what stops a grammar or keeps it busy for minutes: NUL bytes
    and pages of punctuation. Lines stay where they are."""
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    if b"\0" in data:
        data = data.replace(b"\0", b" ")
    if len(data) > LONG_FILE and any(
        # Looking at every step finds all runs of twice that length, a thousand times faster.
        _PUNCTUATION.match(data, at)
        for at in range(0, len(data), _STEP)
    ):
        data = _PUNCTUATION.sub(lambda run: _NOT_NEWLINE.sub(b" ", run[0]), data)
    return data


class _Reading:
    """One pass over the matches of one file."""

    def __init__(self, machine: _Machine, source: bytes, language: str) -> None:
        self.grammar = machine.grammar
        self.machine = machine
        self.source = source
        self.language = language
        self.defined: dict[int, tuple[int, _Definition]] = {}
        self.outer: dict[int, Node] = {}
        self.references: defaultdict[bytes, int] = defaultdict(int)
        self.imports: list[Import] = []
        self.comments: list[tuple[int, int]] = []

    def read(self, root: Node) -> ParsedFile:
        kinds, references = self.machine.kinds, self.references
        cursor = QueryCursor(self.machine.query)
        cursor.set_max_start_depth(MAX_DEPTH)
        for index, captures in cursor.matches(root):
            kind = kinds[index]
            # References are two thirds of all matches: nothing else is done for them here.
            if kind == "reference":
                references[captures["name"][0].text or b""] += 1
            elif kind == "comment":
                node = captures["node"][0]
                self.comments.append((node.start_byte, node.end_byte))
            elif kind == "import":
                self._import(captures["node"][0])
            elif kind == "outer":
                self.outer[captures["inner"][0].start_byte] = captures["node"][0]
            else:
                self._define(index, captures)
        self._join_comments()
        return ParsedFile(
            language=self.language,
            num_lines=_num_lines(self.source),
            symbols=self._symbols(),
            imports=tuple(sorted(self.imports, key=lambda item: item.line)),
            references=self._references(),
            docstring=self._file_docstring(),
            rationale=self._rationale(),
            has_errors=root.has_error,
        )

    def _import(self, node: Node) -> None:
        line = node.start_point[0] + 1
        for module, names, level in self.grammar.read_import(_text(node.text or b"")):
            self.imports.append(Import(module=module, line=line, names=names, level=level))

    def _define(self, index: int, captures: dict[str, list[Node]]) -> None:
        kind = self.machine.kinds[index]
        node, name_node = captures["node"][0], captures["name"][0]
        name = _text(name_node.text or b"")
        grammar = self.grammar
        if (
            kind == "constant"
            and grammar.is_constant
            and not grammar.is_constant(node.text or b"", name)
        ):
            return
        owner = _text(captures["parent"][0].text or b"") if "parent" in captures else ""
        if grammar.read_name is not None:
            inner_owner, name = grammar.read_name(name)
            owner = inner_owner or owner
        body = captures["body"][0].start_byte if "body" in captures else node.end_byte
        name_start = name_node.start_byte
        if not name or self.defined.get(name_start, (index, 0))[0] < index:
            return
        self.defined[name_start] = (
            index,
            _Definition(node.start_byte, -node.end_byte, name, kind, node, body, owner),
        )

    def _symbols(self) -> tuple[Symbol, ...]:
        """Nests the definitions by their spans, without recursion."""
        symbols: list[Symbol] = []
        stack: list[tuple[int, str, str]] = []  # (end, dotted name, kind)
        for item in sorted((item for _, item in self.defined.values()), key=lambda item: item[:2]):
            start, end = item.start, -item.negative_end
            while stack and stack[-1][0] <= start:
                stack.pop()
            outer_name, outer_kind = stack[-1][1:] if stack else ("", "")
            parent = item.owner or outer_name
            stack.append((end, f"{parent}.{item.name}" if parent else item.name, item.kind))
            if item.kind == "scope":
                continue
            owned = bool(item.owner) or outer_kind in _OWNERS
            kind = "method" if item.kind == "function" and owned else item.kind
            shell = self.outer.get(start, item.node)
            symbols.append(
                Symbol(
                    name=item.name,
                    kind=_kind(kind),
                    start_line=shell.start_point[0] + 1,
                    end_line=_last_line(item.node, self.source),
                    parent=parent,
                    signature=self._signature(start, item.body, kind),
                    docstring=self._docstring(shell.start_byte, item.body, end),
                )
            )
        return tuple(symbols)

    def _signature(self, start: int, body: int, kind: str) -> str:
        head = self.source[start : min(body, start + 4 * MAX_SIGNATURE)]
        if kind == "constant":
            head = head.partition(b"\n")[0]
        elif self.grammar.read_docstring is not None:
            head = _HASH_COMMENT.sub(rb"\1", head) if b"#" in head else head
        elif b"//" in head or b"/*" in head:
            head = _SLASH_COMMENT.sub(rb"\1", head)
        text = _shorten(head, MAX_SIGNATURE).rstrip(" :{;").removesuffix("=>").rstrip(" =")
        return text.replace("( ", "(").replace(", )", ")").replace(" )", ")")

    def _docstring(self, start: int, body: int, end: int) -> str:
        if self.grammar.read_docstring is not None:
            raw = self.grammar.read_docstring(self.source, body) if body < end else b""
            return _shorten(raw, MAX_DOCSTRING)
        at = bisect_right(self.comments, (start, 0)) - 1
        if at < 0 or not _BETWEEN.match(self.source[self.comments[at][1] : start]):
            return ""
        return _comment_text(self.source[slice(*self.comments[at])], MAX_DOCSTRING)

    def _file_docstring(self) -> str:
        if self.grammar.read_docstring is not None:
            return _shorten(self.grammar.read_docstring(self.source, 0), MAX_DOCSTRING)
        if not self.comments:
            return ""
        start, end = self.comments[0]
        first = self.source[start:end]
        if self.source[:start].strip() or _LICENCE.search(first):
            return ""
        return _comment_text(first, MAX_DOCSTRING)

    def _join_comments(self) -> None:
        """Lines of comments that follow one another are one comment."""
        joined: list[tuple[int, int]] = []
        for start, end in sorted(self.comments):
            if joined:
                gap = self.source[joined[-1][1] : start]
                if gap.isspace() and gap.count(b"\n") <= 1:
                    joined[-1] = (joined[-1][0], end)
                    continue
            joined.append((start, end))
        self.comments = joined

    def _rationale(self) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for start, end in self.comments:
            comment = self.source[start:end]
            if _gives_reason(_text(comment[: MAX_RATIONALE * 2])):
                found[_comment_text(comment, MAX_RATIONALE)] = None
                if len(found) == MAX_RATIONALES:
                    break
        return tuple(found)

    def _references(self) -> tuple[Reference, ...]:
        ranked = sorted(self.references.items(), key=lambda item: (-item[1], item[0]))
        return tuple(
            Reference(name=_text(name), count=count) for name, count in ranked[:MAX_REFERENCES]
        )


def _gives_reason(text: str) -> bool:
    text = text.lower()
    return any(
        not text[found.start() - 1 : found.start()].isalnum() for found in _REASON.finditer(text)
    )


def _kind(kind: str) -> SymbolKind:
    return kind  # type: ignore[return-value]  # the patterns' first column; held by a test


def _last_line(node: Node, source: bytes) -> int:
    row, column = node.end_point
    # A node that ends at the start of a line ends with the line before.
    return max(row + (column > 0), node.start_point[0] + 1)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _shorten(raw: bytes, limit: int) -> str:
    """One line, blanks collapsed, at most `limit` characters."""
    text = " ".join(_text(raw[: limit * 6]).split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _comment_text(raw: bytes, limit: int) -> str:
    text = " ".join(_MARKERS.sub("", _text(raw[: limit * 6])).split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a `ParsedFile` that resolving imports needs: decoding only this is ten times
    faster."""

    language: str
    imports: tuple[Import, ...] = ()


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(ParsedFile)
_OUTLINE_DECODER: Final = msgspec.msgpack.Decoder(Outline)


def encode(parsed: ParsedFile) -> bytes:
    """The bytes that the cache keeps; `decode` reads them back."""
    return _ENCODER.encode(parsed)


def decode(data: bytes) -> ParsedFile:
    return _DECODER.decode(data)


def decode_outline(data: bytes) -> Outline:
    return _OUTLINE_DECODER.decode(data)
