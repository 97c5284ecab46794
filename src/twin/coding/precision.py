"""Inside the chosen files: which symbols the task is about, and at what detail to show them.

Owns the tiers: `primary` (shown whole), `supporting` (signature and docstring), `type context` (the
signature of what encloses a primary symbol, and of classes it names), `excluded` (named in no
package). Works on the chosen files' text of that commit; does not rank files.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from twin.coding.features import Question
from twin.coding.lexical import K1, B, Floats, Ints
from twin.coding.text import WORD, terms_of
from twin.records import ParsedFile, Symbol

Tier = Literal["primary", "supporting", "type context", "excluded"]

NAME_WEIGHT: Final = 2.0
"""A word in the name says more than one in the body."""
PRIMARY_SHARE: Final = 0.55
SUPPORTING_SHARE: Final = 0.25
"""Shares of the best symbol's score. Chosen so that a typical file has one to three primaries."""
MAX_PRIMARY: Final = 6
MAX_SUPPORTING: Final = 12

_WORD_OR_NEWLINE: Final = re.compile(r"\n|" + WORD.pattern)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedSymbol:
    """One symbol of a chosen file."""

    name: str
    """Dotted, with what encloses it."""
    kind: str
    start_line: int
    end_line: int
    signature: str
    tier: Tier
    score: float


_NOWHERE: Final[Ints] = np.empty(0, np.int64)


class WordPlaces:
    """Where each term stands in one text, counted in words. Made once per content: reading takes
    a millisecond, asking microseconds."""

    def __init__(self, text: str) -> None:
        words = _WORD_OR_NEWLINE.findall(text)
        codes = {word: code for code, word in enumerate(dict.fromkeys(words))}
        self._words = np.fromiter(map(codes.__getitem__, words), np.int64, len(words))
        self._num_codes = len(codes)
        self._codes: dict[int, list[int]] = {}
        for word, code in codes.items():
            for term in terms_of(word):
                self._codes.setdefault(term, []).append(code)
        newlines = np.flatnonzero(self._words == codes.get("\n", -1))
        self.line_starts = np.concatenate([[0], newlines + 1, [len(words)]])

    def places_of(self, term: int) -> Ints:
        """The positions of a term among the words, ascending."""
        codes = self._codes.get(term)
        if codes is None:
            return _NOWHERE
        wanted = np.zeros(self._num_codes, bool)
        wanted[codes] = True
        return np.flatnonzero(wanted[self._words])


def located_symbols(
    question: Question, texts: Mapping[str, WordPlaces], parsed: Mapping[str, ParsedFile]
) -> dict[str, tuple[LocatedSymbol, ...]]:
    """The symbols of each file that are not excluded, best first; all files compete together."""
    owners: list[tuple[str, Symbol]] = []
    counts: list[Floats] = []
    lengths: list[Floats] = []
    for path, file in parsed.items():
        if path in texts and file.symbols:
            owners.extend((path, symbol) for symbol in file.symbols)
            in_body, length = _body_counts(question, texts[path], file.symbols)
            counts.append(in_body)
            lengths.append(length)
    if not owners:
        return {}
    scores = _scores(question, np.concatenate(counts), np.concatenate(lengths), owners)
    tiers = _tiers(owners, scores)
    found: dict[str, list[LocatedSymbol]] = {path: [] for path in parsed}
    for at in np.argsort(-scores, kind="stable"):
        path, symbol = owners[at]
        if tiers[at] != "excluded":
            found[path].append(
                LocatedSymbol(
                    name=symbol.dotted,
                    kind=symbol.kind,
                    start_line=symbol.start_line,
                    end_line=symbol.end_line,
                    signature=symbol.signature,
                    tier=tiers[at],
                    score=float(scores[at]),
                )
            )
    return {path: tuple(symbols) for path, symbols in found.items()}


def _body_counts(
    question: Question, file: WordPlaces, symbols: Sequence[Symbol]
) -> tuple[Floats, Floats]:
    """([symbols, terms] how often each term of the question occurs in each body, words a body)."""
    last = len(file.line_starts) - 1
    first = file.line_starts[np.minimum([symbol.start_line - 1 for symbol in symbols], last)]
    after = file.line_starts[np.minimum([symbol.end_line for symbol in symbols], last)]
    counts = np.zeros((len(symbols), len(question.terms)))
    for at, term in enumerate(question.terms.tolist()):
        places = file.places_of(term)
        if len(places):
            counts[:, at] = np.searchsorted(places, after) - np.searchsorted(places, first)
    return counts, (after - first).astype(np.float64)


def _scores(
    question: Question, counts: Floats, lengths: Floats, owners: Sequence[tuple[str, Symbol]]
) -> Floats:
    """BM25 of the bodies, plus the idf of the words that stand in a symbol's own name."""
    weights = question.full + question.in_subject
    holding = (counts > 0).sum(axis=0)
    idf = np.log1p((len(owners) - holding + 0.5) / (holding + 0.5)) * (holding > 0)
    share = (lengths / max(float(lengths.mean()), 1.0))[:, None]
    body = counts * (K1 + 1) / (counts + K1 * (1 - B + B * share))
    named = np.zeros_like(counts)
    column = {term: at for at, term in enumerate(question.terms.tolist())}
    for at, (_, symbol) in enumerate(owners):
        for term in terms_of(symbol.name):
            if term in column:
                named[at, column[term]] = 1.0
    scores: Floats = (body + NAME_WEIGHT * named) @ (idf * weights)
    return scores


def _tiers(owners: Sequence[tuple[str, Symbol]], scores: Floats) -> list[Tier]:
    tiers: list[Tier] = ["excluded"] * len(owners)
    best = float(scores.max(initial=0.0))
    if best <= 0:
        return tiers
    primaries = supporters = 0
    for at in np.argsort(-scores, kind="stable"):
        share = scores[at] / best
        if (
            share >= PRIMARY_SHARE
            and primaries < MAX_PRIMARY
            and not _holds_better(at, owners, scores)
        ):
            tiers[at] = "primary"
            primaries += 1
        elif share >= SUPPORTING_SHARE and supporters < MAX_SUPPORTING:
            tiers[at] = "supporting"
            supporters += 1
    chosen = [owners[at] for at, tier in enumerate(tiers) if tier == "primary"]
    enclosing = {(path, symbol.parent) for path, symbol in chosen if symbol.parent}
    mentioned = {word for _, symbol in chosen for word in WORD.findall(symbol.signature)}
    for at, (path, symbol) in enumerate(owners):
        is_type = symbol.kind in {"class", "struct", "interface", "trait", "enum", "type"}
        if tiers[at] == "excluded" and (
            (path, symbol.dotted) in enclosing or (is_type and symbol.name in mentioned)
        ):
            tiers[at] = "type context"
    return tiers


def _holds_better(at: int, owners: Sequence[tuple[str, Symbol]], scores: Floats) -> bool:
    """Whether a symbol inside this one carries most of its score: then the inner one is meant."""
    path, symbol = owners[at]
    prefix = symbol.dotted
    return any(
        other_path == path
        and (other.parent == prefix or other.parent.startswith(prefix + "."))
        and scores[index] >= 0.6 * scores[at]
        for index, (other_path, other) in enumerate(owners)
    )
