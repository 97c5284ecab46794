"""Lexical search over bags of terms: an inverted index that answers for any part of its documents.

One index holds every content a repository ever had; a question is asked of the documents that were
there at one moment, with the statistics (how many, how long, how rare a term) of that moment alone.
So the past can be replayed without building an index per commit, and nothing later can leak into
an answer. The scores are those of BM25 (Robertson and Zaragoza 2009, the variant with a positive
idf that Lucene uses) and agree with the `bm25s` package but for a constant factor, the (k1 + 1)
that it leaves out; a test holds that.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

K1: Final = 1.2
B: Final = 0.75
"""The usual constants; tuning them moved recall by less than its noise."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bag:
    """Terms of one document, sorted, with their counts."""

    terms: NDArray[np.uint32]
    counts: NDArray[np.uint16]

    @classmethod
    def of(cls, counts: Mapping[int, int]) -> "Bag":
        terms = np.fromiter(counts.keys(), np.uint32, len(counts))
        order = np.argsort(terms, kind="stable")
        values = np.fromiter(counts.values(), np.int64, len(counts))
        return cls(terms[order], np.minimum(values, 65_535).astype(np.uint16)[order])


@dataclass(frozen=True, slots=True)
class Hits:
    """Where the terms of one question occur among the documents that were asked."""

    term: Ints
    """Index into the question's terms."""
    document: Ints
    """Position in the view."""
    impact: Floats
    """Weight-free BM25 contribution, idf included."""
    idf: Floats
    """One per term of the question; 0 for a term that no document holds."""
    num_documents: int

    def scores(self, weights: Floats) -> Floats:
        """BM25 of every document; `weights` has one entry per term of the question."""
        return weighted_counts(self.document, self.impact * weights[self.term], self.num_documents)

    def coverage(self) -> Floats:
        """The share of the question's idf mass that each document holds, in [0, 1]."""
        held = weighted_counts(self.document, self.idf[self.term], self.num_documents)
        return held / max(float(self.idf.sum()), 1e-9)


class Postings:
    """An inverted index over bags, in the order in which they were given."""

    def __init__(self, bags: Sequence[Bag]) -> None:
        sizes = np.fromiter((len(bag.terms) for bag in bags), np.int64, len(bags))
        terms = _joined([bag.terms for bag in bags], np.uint32)
        counts = _joined([bag.counts for bag in bags], np.uint16)
        documents = np.repeat(np.arange(len(bags), dtype=np.int32), sizes)
        order = np.argsort(terms, kind="stable")  # within a term, documents stay ascending
        self._documents = documents[order]
        self._counts = counts[order].astype(np.float32)
        self._terms, starts = np.unique(terms[order], return_index=True)
        self._starts = np.append(starts, len(terms)).astype(np.int64)
        totals = np.concatenate([[0], np.cumsum(counts, dtype=np.float64)])
        edges = np.concatenate([[0], np.cumsum(sizes)])
        self.lengths: Floats = totals[edges[1:]] - totals[edges[:-1]]

    def match(self, terms: Ints, view: "View", b: float = B) -> Hits:
        """Where `terms` occur in the documents of `view`."""
        term, document, count = self._occurrences(terms)
        at = view.positions[document]
        seen = at >= 0
        term, document, count, at = term[seen], document[seen], count[seen], at[seen]
        frequency = np.bincount(term, minlength=len(terms))
        idf = np.log1p((view.size - frequency + 0.5) / (frequency + 0.5)) * (frequency > 0)
        lengths = self.lengths[document] / max(view.mean_length(self.lengths), 1.0)
        impact = idf[term] * count * (K1 + 1) / (count + K1 * (1 - b + b * lengths))
        return Hits(term, at, impact, idf, view.size)

    def frequency_before(self, terms: Ints, end: int) -> Ints:
        """In how many of the first `end` documents each term occurs."""
        term, document, _ = self._occurrences(terms)
        return np.bincount(term[document < end], minlength=len(terms)).astype(np.int64)

    def _occurrences(self, terms: Ints) -> tuple[Ints, Ints, Floats]:
        """(index of the term, document, count) for every posting of `terms`."""
        none = np.empty(0, np.int64)
        if not len(self._terms) or not len(terms):
            return none, none, np.empty(0)
        at = np.minimum(np.searchsorted(self._terms, terms), len(self._terms) - 1)
        known = np.flatnonzero(self._terms[at] == terms)
        starts, ends = self._starts[at[known]], self._starts[at[known] + 1]
        where = ranges(starts, ends)
        return (
            np.repeat(known, ends - starts),
            self._documents[where].astype(np.int64),
            self._counts[where].astype(np.float64),
        )


class View:
    """The documents that a question may see."""

    def __init__(self, documents: Ints, num_documents: int) -> None:
        """`documents`: distinct indices into postings that hold `num_documents`."""
        self.documents = documents
        self.size = len(documents)
        self.positions = np.full(num_documents, -1, np.int64)
        self.positions[documents] = np.arange(len(documents))
        self._means: dict[int, tuple[Floats, float]] = {}

    @classmethod
    def first(cls, end: int, num_documents: int) -> "View":
        """The first `end` documents: a history up to a moment."""
        return cls(np.arange(end), num_documents)

    def mean_length(self, lengths: Floats) -> float:
        key = id(lengths)
        if key not in self._means:
            mean = float(lengths[self.documents].mean()) if self.size else 0.0
            self._means[key] = lengths, mean  # held, or the next array could get the same id
        return self._means[key][1]


def weighted_counts(at: Ints, weights: Floats, size: int) -> Floats:
    """The sum of `weights` per place of `at`, which lie in [0, size)."""
    return np.asarray(np.bincount(at, weights, minlength=size), np.float64)


def ranges(starts: Ints, ends: Ints) -> Ints:
    """The numbers of all half-open ranges, one after the other."""
    sizes = ends - starts
    offsets = np.repeat(starts - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes)
    return np.asarray(offsets + np.arange(int(sizes.sum())), np.int64)


def scaled(scores: Floats) -> Floats:
    """Scores divided by the best one, so that questions of any length compare; zeros stay zeros."""
    best = scores.max(initial=0.0)
    return scores / best if best > 0 else np.zeros_like(scores)


def _joined(parts: Iterable[NDArray[np.generic]], dtype: type) -> NDArray[np.generic]:
    chosen = list(parts)
    return np.concatenate(chosen) if chosen else np.empty(0, dtype)
