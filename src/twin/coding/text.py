"""Text to terms: how code and prose become the numbers that lexical search counts.

An identifier is split into its parts (`getHTTPName`, `get_http_name` -> get, http, name), each part
stemmed; a compound also counts as one whole, so that "write locks" in a task can find `WriteLocks`.
Terms are 32-bit hashes: no vocabulary has to be kept or agreed on, and among 100,000 distinct terms
one pair in all is expected to collide. Owns no index; `lexical` does.
"""

import re
import zlib
from collections import Counter
from functools import lru_cache
from typing import Final

import Stemmer

TERMS_VERSION: Final = 1
"""Raise when the terms of the same text change: what was counted with older ones is then stale."""

MAX_PART: Final = 40
MAX_WORD: Final = 80
"""Longer runs are encoded data, which nobody asks for by name."""

WORD: Final = re.compile(r"[^\W\d]\w*|\d+")
_PART: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\da-zA-Z_]+")
_COMPOUND: Final = re.compile(r"[^_]_[^_]|[a-z][A-Z]")
_STEMMER: Final = Stemmer.Stemmer("porter")

_TRAILER: Final = re.compile(
    r"^(?:signed-off-by|co-authored-by|reviewed-by|acked-by|tested-by|reported-by|cc|change-id"
    r"|git-svn-id|pull request resolved|differential revision|fbshipit-source-id):.*$",
    re.IGNORECASE | re.MULTILINE,
)
_POINTER: Final = re.compile(r"https?://\S+|\(?(?:\bgh-|#)\d+\)?|\b[0-9a-f]{7,40}\b", re.IGNORECASE)


def clean_message(message: str) -> str:
    """A commit message without what points elsewhere: links, issue numbers, hashes, trailers."""
    return _POINTER.sub(" ", _TRAILER.sub("", message)).strip()


def hash_of(term: str) -> int:
    """The 32-bit number of one term."""
    return zlib.crc32(term.encode("utf-8", "surrogateescape"))


def whole(word: str) -> int:
    """The number of a compound taken as one: the same for `write_locks` and `WriteLocks`."""
    return hash_of("=" + word.lower().replace("_", ""))


def is_compound(word: str) -> bool:
    """Whether the word is written as code: with an inner underscore or capital."""
    return _COMPOUND.search(word) is not None


def split_word(word: str) -> list[str]:
    """The parts of one word in lower case: `getHTTPName` -> get, http, name."""
    return [part.lower() for part in _PART.findall(word)]


@lru_cache(maxsize=500_000)
def terms_of(word: str) -> tuple[int, ...]:
    """The terms of one word: its stemmed parts, then the whole if it has several."""
    parts = split_word(word)
    terms = [hash_of(_STEMMER.stemWord(part)) for part in parts if len(part) <= MAX_PART]
    if len(parts) > 1 and len(word) <= MAX_WORD:
        terms.append(whole(word))
    return tuple(terms)


def count_terms(text: str) -> dict[int, int]:
    """How often each term occurs in `text`."""
    counts: dict[int, int] = {}
    for word, times in Counter(WORD.findall(text)).items():
        for term in terms_of(word):
            counts[term] = counts.get(term, 0) + times
    return counts
