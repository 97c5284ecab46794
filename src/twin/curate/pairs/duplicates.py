"""Pairs that teach what an earlier one taught already: the same, or nearly.

Nearly the same are two of one kind from different commits (a backport, a commit done again) whose
tasks share four fifths of their runs of three words, and whose answers do too; what was shown to
answer them is not compared, since neighbouring commits see nearly the same files. The shares are
estimated by MinHash: with 64 numbers the standard error is 0.05 at that point. The earliest stays.
"""

import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from twin.records import Pair
from twin.store.pairs import Fingerprint

NEAR: Final = 0.8
NUM_HASHES: Final = 64
BAND: Final = 4
"""Numbers of a task that must agree for a comparison. Of two tasks that share 0.8, one of the 16
bands agrees in all but one case in five thousand; of two that share 0.3, in one of eight."""

Numbers = NDArray[np.uint32]

_WORD: Final = re.compile(r"\w+")
_chance = np.random.default_rng(20261121)
# Multiply-shift: odd factors modulo 2^64, of which the upper half is kept.
_FACTORS: Final = _chance.integers(0, 2**63, NUM_HASHES, dtype=np.uint64) * 2 + 1
_TERMS: Final = _chance.integers(0, 2**63, NUM_HASHES, dtype=np.uint64)


def signature(pair: Pair) -> bytes:
    """What near-duplicates of a pair are found by: 256 bytes of its task, 256 of its answers."""
    return _lowest(pair.task) + _lowest(f"{pair.completion}\n{pair.rejected}")


def _lowest(text: str) -> bytes:
    """MinHash of a text's runs of three words."""
    words = [word.casefold() for word in _WORD.findall(text)]
    runs = {" ".join(words[at : at + 3]) for at in range(max(len(words) - 2, 1))}
    hashes = [zlib.crc32(run.encode("utf-8", "surrogatepass")) for run in runs]
    lowest = np.full(NUM_HASHES, 2**32 - 1, np.uint32)
    for start in range(0, len(hashes), 4_096):  # a long text must not become a large table
        some = np.array(hashes[start : start + 4_096], np.uint64)
        mixed = (some[:, None] * _FACTORS + _TERMS) >> np.uint64(32)
        lowest = np.minimum(lowest, mixed.min(axis=0).astype(np.uint32))
    return lowest.tobytes()


def duplicates(fingerprints: Iterable[Fingerprint]) -> Iterator[tuple[int, str | None]]:
    """(pair, why it is dropped or None) of those whose present mark is another. The pairs come in
    the order of time."""
    seen: set[str] = set()
    near: dict[str, _Near] = defaultdict(_Near)
    for one in fingerprints:
        why = None
        if one.content_hash in seen:
            why = "duplicate"
        elif not near[one.kind].admits(one):
            why = "near_duplicate"
        seen.add(one.content_hash)
        if why != one.dropped_by:
            yield one.pair_id, why


class _Near:
    """Pairs of one kind by the bands of their tasks."""

    def __init__(self) -> None:
        self._signatures: list[Numbers] = []
        self._groups: list[int] = []
        self._bands: dict[tuple[int, bytes], list[int]] = defaultdict(list)

    def admits(self, one: Fingerprint) -> bool:
        """Whether no earlier one is nearly the same; it is kept in mind then."""
        numbers = np.frombuffer(one.signature, np.uint32).reshape(2, NUM_HASHES)
        keys = [(at, numbers[0, at : at + BAND].tobytes()) for at in range(0, NUM_HASHES, BAND)]
        for other in {other for key in keys for other in self._bands.get(key, ())}:
            shares = np.mean(numbers == self._signatures[other], axis=1)
            if shares.min() >= NEAR and self._groups[other] != one.group:
                return False
        for key in keys:
            self._bands[key].append(len(self._signatures))
        self._signatures.append(numbers)
        self._groups.append(one.group)
        return True
