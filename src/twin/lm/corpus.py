"""Training text as numbers in a file that is mapped into memory, made once and found again.

Owns the division into a part to learn from and a held-out part, and the cache: a folder named by
what is in it (the text's digests, the tokenizer, the division), written beside its place and
renamed, so that it is whole or not there. `documents` finds the text, `batches` reads the numbers.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from twin.lm import durable
from twin.lm import tokenizer as tokenizers
from twin.lm.documents import Document, Source, Split
from twin.lm.errors import BadConfig, BadCorpus
from twin.lm.tokenizer import BpeTokenizer, ByteTokenizer, CharTokenizer, Kind, Tokenizer

FORMAT: Final = 1
HELD_OUT: Final = 0.1
MAX_BPE_BYTES: Final = 200 << 20
"""Byte pairs are learnt from this much text at most; more changes the merges little."""

_LEFT_OUT: Final = -1

Tell = Callable[[str, int, int], None]
Tokens = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which tokenizer to make for a text."""

    kind: Kind = "byte"
    vocab_size: int = 24_000
    """Of `bpe` alone: at most this many."""
    control_tokens: bool = True
    symbols: str = ""
    """Of `char` alone: symbols to have besides those of the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A stretch of text as numbers."""

    tokens: Tokens
    num_bytes: int
    """Of the text in UTF-8, so that tokenizers compare in bits per byte."""
    num_documents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    train: Part
    held_out: Part
    tokenizer: Tokenizer
    key: str
    """Names the text, the tokenizer and the division: equal keys, equal numbers."""
    left_out: dict[str, int]
    """Reason -> documents that were not used."""


def prepare(
    source: Source,
    wanted: Wanted | Tokenizer,
    cache: Path,
    *,
    held_out: float = HELD_OUT,
    split: Split | None = None,
    tell: Tell = lambda what, done, total: None,
) -> Corpus:
    """The corpus of a source, from the cache if it is there.

    `held_out`: the share of the bytes that is kept for validation: with the split `order` the end
    of the text, with `path` whole documents by the hash of their content. A
    document is never on both sides. Raises BadCorpus for text
    that is empty or of one symbol only.
    """
    if not 0.0 < held_out < 1.0:
        raise BadConfig(f"held_out = {held_out} is no share. Use 0.1, for a tenth.")
    division = _divide(source, held_out, split or source.split, tell)
    key = _key(division, wanted)
    folder = cache / key
    if not (folder / "meta.json").is_file():
        tokenizer = wanted if isinstance(wanted, Tokenizer) else _make(wanted, source, division)
        _write(folder, source, division, tokenizer, tell)
    left_out = dict(source.left_out)
    if division.repeated:
        left_out["held out and also to learn from"] = division.repeated
    return _open(folder, key, left_out)


def reopen(cache: Path, key: str) -> Corpus:
    """The corpus that `prepare` left in `cache` under that key. Raises BadCorpus."""
    folder = cache / key
    if not key.isalnum() or not (folder / "meta.json").is_file():
        raise BadCorpus(f"The text is no longer in {cache}. Give it again.")
    return _open(folder, key, {})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Division:
    """Which bytes of which document are held out, in the order of the source."""

    cuts: list[tuple[bytes, int, int]]
    """(digest, bytes, bytes to learn from; the rest is held out). _LEFT_OUT bytes: on no side."""
    symbols: frozenset[str]
    repeated: int = 0
    """Documents that are on no side: they would be held out, and are also to learn from."""


def _divide(source: Source, share: float, split: Split, tell: Tell) -> _Division:
    """Reads everything once: digests, sizes and symbols."""
    sizes: list[tuple[bytes, int]] = []
    symbols: set[str] = set()
    for document in source.documents():
        digest, size = hashlib.sha256(), 0
        for piece in document.pieces():
            digest.update(piece)
            size += len(piece)
            symbols.update(piece.decode("utf-8", "replace"))
        if size:
            sizes.append((digest.digest(), size))
            tell("Reading", len(sizes), 0)
    total = sum(size for _, size in sizes)
    if not total:
        raise BadCorpus("There is no text to learn from: every file is empty. Give one with text.")
    if len(symbols) < 2:
        raise BadCorpus(
            f"The text holds one symbol only, {next(iter(symbols))!a}: nothing can be learnt "
            "from it. Give another."
        )
    if split == "path":
        cuts = [(d, size, 0 if _drawn(d, share) else size) for d, size in sizes]
        if all(kept == 0 for *_, kept in cuts) or all(kept == size for _, size, kept in cuts):
            raise BadCorpus(
                f"Whole documents cannot be held out of {len(cuts)}. Use the split `order`, or "
                "give more documents."
            )
        return _Division(cuts=cuts, symbols=frozenset(symbols))
    boundary, before, cuts = int(total * (1.0 - share)), 0, []
    learnt: set[bytes] = set()
    repeated = 0
    for digested, size in sizes:
        kept = min(max(boundary - before, 0), size)
        before += size
        if kept < size and digested in learnt:  # to hold out what was read tells nothing
            kept = _LEFT_OUT
            repeated += 1
        elif kept:
            learnt.add(digested)
        cuts.append((digested, size, kept))
    if repeated and all(kept in (size, _LEFT_OUT) for _, size, kept in cuts):
        raise BadCorpus(
            "Every document that would be held out is also among those to learn from. Give "
            "documents that differ."
        )
    return _Division(cuts=cuts, symbols=frozenset(symbols), repeated=repeated)


def _drawn(digest: bytes, share: float) -> bool:
    """Whether a document is held out: by its content alone, so that it stays where others come, and
    copies of it are on the same side."""
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _key(division: _Division, wanted: Wanted | Tokenizer) -> str:
    about = wanted.to_dict() if isinstance(wanted, Tokenizer) else _wanted_dict(wanted)
    key = hashlib.sha256(json.dumps([FORMAT, about], sort_keys=True).encode())
    for digest, size, kept in division.cuts:
        key.update(digest + size.to_bytes(8, "big") + kept.to_bytes(8, "big", signed=True))
    return key.hexdigest()[:32]


def _wanted_dict(wanted: Wanted) -> dict[str, Any]:
    about: dict[str, Any] = {"wanted": wanted.kind, "control": wanted.control_tokens}
    if wanted.kind == "bpe":
        about["vocab_size"] = wanted.vocab_size
    if wanted.kind == "char":
        about["symbols"] = "".join(sorted(set(wanted.symbols)))
    return about


def _make(wanted: Wanted, source: Source, division: _Division) -> Tokenizer:
    match wanted.kind:
        case "char":
            symbols = division.symbols | set(wanted.symbols)
            return CharTokenizer(symbols, control_tokens=wanted.control_tokens)
        case "byte":
            return ByteTokenizer(control_tokens=wanted.control_tokens)
        case "bpe":
            return BpeTokenizer.train(
                _to_learn_pairs_from(source, division),
                vocab_size=wanted.vocab_size,
                control_tokens=wanted.control_tokens,
            )


def _to_learn_pairs_from(source: Source, division: _Division) -> Iterator[str]:
    """The part to learn from, in pieces, up to MAX_BPE_BYTES."""
    used = 0
    for held, _, piece in _pieces(source, division):
        if not held and used < MAX_BPE_BYTES:
            used += len(piece)
            yield piece.decode("utf-8", "replace")


def _pieces(source: Source, division: _Division) -> Iterator[tuple[bool, bool, bytes]]:
    """(held out, starts a document, bytes) in order. A cut falls between UTF-8 characters."""
    cuts = iter(division.cuts)
    for document in source.documents():
        pieces = _whole(document)
        first = next(pieces, None)
        if first is None:
            continue
        cut = next(cuts, None)
        if cut is None:
            raise BadCorpus("The text grew while it was read. Run the command again.")
        if cut[2] != _LEFT_OUT:
            whole = _unchanged(_chain(first, pieces), cut)
            yield from _cut(next(whole), whole, cut[2])
    if next(cuts, None) is not None:
        raise BadCorpus("The text shrank while it was read. Run the command again.")


def _unchanged(pieces: Iterator[bytes], cut: tuple[bytes, int, int]) -> Iterator[bytes]:
    """The pieces as they are. Raises BadCorpus at the end where it is not what was read before: the
    numbers would be kept under another text's name."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        yield piece
    if digest.digest() != cut[0]:
        raise BadCorpus("The text changed while it was read. Run the command again.")


def _cut(first: bytes, pieces: Iterator[bytes], kept: int) -> Iterator[tuple[bool, bool, bytes]]:
    """One document's pieces; its first `kept` bytes are to learn from."""
    starts = True
    for piece in _chain(first, pieces):
        if kept <= 0:
            yield True, starts, piece
        elif len(piece) <= kept:
            yield False, starts, piece
            kept -= len(piece)
        else:
            while kept < len(piece) and piece[kept] & 0xC0 == 0x80:
                kept += 1
            yield False, starts, piece[:kept]
            starts = False
            if kept < len(piece):
                yield True, starts, piece[kept:]
            kept = 0
        starts = False


def _chain(first: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from pieces


def _whole(document: Document) -> Iterator[bytes]:
    return (piece for piece in document.pieces() if piece)


def _write(
    folder: Path, source: Source, division: _Division, tokenizer: Tokenizer, tell: Tell
) -> None:
    """Makes the cache folder: beside its place, then renamed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
        counts = _write_parts(beside, source, division, tokenizer, dtype, tell)
        tokenizer.save(beside / "tokenizer.json")
        meta = {"format": FORMAT, "dtype": dtype.name, "parts": counts}
        durable.write(beside / "meta.json", json.dumps(meta).encode())
        try:
            beside.rename(folder)
        except OSError:
            if not (folder / "meta.json").is_file():  # else another process made the same
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_parts(
    beside: Path,
    source: Source,
    division: _Division,
    tokenizer: Tokenizer,
    dtype: np.dtype[Any],
    tell: Tell,
) -> dict[str, dict[str, int]]:
    names = ("train", "held_out")
    counts = {name: {"num_tokens": 0, "num_bytes": 0, "num_documents": 0} for name in names}
    total, done = sum(size for _, size, kept in division.cuts if kept != _LEFT_OUT), 0
    with (beside / "train.bin").open("wb") as train, (beside / "held_out.bin").open("wb") as held:
        files: tuple[IO[bytes], IO[bytes]] = (train, held)
        for is_held, starts, piece in _pieces(source, division):
            count, file = counts[names[is_held]], files[is_held]
            numbers = tokenizer.encode_bytes(piece)
            if starts and count["num_tokens"] and tokenizer.end is not None:
                # Between documents, not after each: a single text needs no end token.
                numbers = np.insert(numbers, 0, tokenizer.end)
            file.write(numbers.astype(dtype).tobytes())
            count["num_tokens"] += len(numbers)
            count["num_bytes"] += len(piece)
            count["num_documents"] += starts
            done += len(piece)
            tell("Tokenizing", done, total)
        for file in files:
            file.flush()
            os.fsync(file.fileno())
    return counts


def _open(folder: Path, key: str, left_out: dict[str, int]) -> Corpus:
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    parts: dict[str, Part] = {}
    for name, counts in meta["parts"].items():
        path, num_tokens = folder / f"{name}.bin", counts["num_tokens"]
        dtype = np.dtype(meta["dtype"])
        if path.stat().st_size != num_tokens * dtype.itemsize:
            raise BadCorpus(f"{path} is damaged. Delete the folder {folder} and run again.")
        if num_tokens < 2:
            raise BadCorpus(
                f"The {'part to learn from' if name == 'train' else 'held-out part'} has "
                f"{num_tokens} tokens. Give more text."
            )
        parts[name] = Part(
            tokens=np.memmap(path, dtype=dtype, mode="r"),
            num_bytes=counts["num_bytes"],
            num_documents=counts["num_documents"],
        )
    return Corpus(
        train=parts["train"],
        held_out=parts["held_out"],
        tokenizer=tokenizers.load_tokenizer(folder / "tokenizer.json"),
        key=key,
        left_out=left_out,
    )
