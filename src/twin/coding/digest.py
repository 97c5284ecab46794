"""What lexical search needs of one file's content: its words, counted once per blob and kept.

A digest depends on nothing but the blob and its language, so it is cached under the blob's id like
the parser's result and is valid for every commit that holds that content. Owns which parts of a
file are counted apart: everything, windows of lines, defined names, prose, calls.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np

from twin.coding.index import MAX_BYTES, Cache, CacheWriter, Contents, Progress, unreadable
from twin.coding.lexical import Bag
from twin.coding.parse import PARSER_VERSION, parse
from twin.coding.text import TERMS_VERSION, WORD, count_terms, hash_of
from twin.records import Import, ParsedFile

DIGEST_VERSION: Final = PARSER_VERSION * 10_000 + TERMS_VERSION * 100 + 1
"""Raise the last number with every change of what a digest holds."""

WINDOW_LINES: Final = 40
"""A long file about many things still has one place that is about the task."""

FIELDS: Final = ("text", "symbols", "prose", "calls", "names")
"""The bags of a digest, beside its windows."""


class Packed(msgspec.Struct, frozen=True, array_like=True):
    """A bag as two runs of bytes: little-endian uint32 terms and uint16 counts."""

    terms: bytes
    counts: bytes

    @classmethod
    def of(cls, counts: Mapping[int, int]) -> "Packed":
        bag = Bag.of(counts)
        return cls(bag.terms.astype("<u4").tobytes(), bag.counts.astype("<u2").tobytes())

    def bag(self) -> Bag:
        return Bag(np.frombuffer(self.terms, "<u4"), np.frombuffer(self.counts, "<u2"))


class Digest(msgspec.Struct, frozen=True, array_like=True):
    """The countable content of one file."""

    num_lines: int = 0
    num_symbols: int = 0
    text: Packed = Packed(b"", b"")
    """Every word: code, comments, strings."""
    symbols: Packed = Packed(b"", b"")
    """The parts of the names that it defines."""
    prose: Packed = Packed(b"", b"")
    """Docstrings and the comments that give reasons."""
    calls: Packed = Packed(b"", b"")
    """The parts of the names that it calls or inherits from."""
    names: Packed = Packed(b"", b"")
    """The names that it defines, whole and in lower case."""
    windows: tuple[Packed, ...] = ()
    """`WINDOW_LINES` lines each."""
    language: str = ""
    imports: tuple[Import, ...] = ()


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Digest)


def digest_of(data: bytes, language: str) -> Digest:
    """Counts one file. Contents that nobody edits (binary, minified) give an empty digest."""
    if unreadable(data):
        return Digest(language=language)
    return _digest(data.decode("utf-8", "replace"), parse(data, language))


def _digest(text: str, parsed: ParsedFile) -> Digest:
    lines = text.split("\n")
    names = [symbol.name for symbol in parsed.symbols]
    prose = [parsed.docstring, *parsed.rationale, *(s.docstring for s in parsed.symbols)]
    starts = range(0, len(lines), WINDOW_LINES)
    windows = [count_terms("\n".join(lines[at : at + WINDOW_LINES])) for at in starts]
    everything: dict[int, int] = {}
    for window in windows:
        for term, count in window.items():
            everything[term] = everything.get(term, 0) + count
    calls: dict[int, int] = {}
    for reference in parsed.references:
        for term, count in count_terms(reference.name).items():
            calls[term] = calls.get(term, 0) + count * reference.count
    return Digest(
        num_lines=len(lines),
        num_symbols=len(names),
        text=Packed.of(everything),
        symbols=Packed.of(count_terms(" ".join(names))),
        prose=Packed.of(count_terms("\n".join(prose))),
        calls=Packed.of(calls),
        names=Packed.of(
            {hash_of(part.lower()): 1 for name in names for part in WORD.findall(name)}
        ),
        windows=tuple(Packed.of(window) for window in windows),
        language=parsed.language,
        imports=parsed.imports,
    )


def digests(
    repository: Contents,
    cache: Cache,
    wanted: Mapping[str, str],
    progress: Progress | None = None,
) -> dict[str, Digest]:
    """The digests of many blobs (`wanted`: blob id to language), from the cache or made now.

    A blob that is missing, too large or unreadable gets an empty digest: it can still be found by
    its path and its history. What git did not give is not kept: a partial clone may fetch it yet.
    Interrupted, the next call goes on from the last batch written.
    """
    found: dict[str, Digest] = {}
    by_language: dict[str, list[str]] = {}
    for blob, language in sorted(wanted.items()):
        by_language.setdefault(language, []).append(blob)
    for language, blobs in by_language.items():
        cached = cache.get_many(_kind(language), DIGEST_VERSION, blobs)
        for blob, payload in cached.items():
            try:
                found[blob] = _DECODER.decode(payload)
            except msgspec.DecodeError:
                continue  # made anew below: the cache holds nothing that git does not
    missing = [blob for blob in wanted if blob not in found]
    writer = CacheWriter(cache, DIGEST_VERSION)
    for done, (blob, data) in enumerate(repository.blobs(missing, max_bytes=MAX_BYTES), start=1):
        language = wanted[blob]
        found[blob] = Digest(language=language) if data is None else digest_of(data, language)
        if data is not None:
            writer.add(_kind(language), blob, _ENCODER.encode(found[blob]), len(data))
        if progress is not None:
            progress(done, len(missing))
    writer.flush()
    return found


def _kind(language: str) -> str:
    return f"digest-{language}"
