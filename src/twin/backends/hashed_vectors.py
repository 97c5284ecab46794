"""Embeddings without a model: each word falls on one axis, by its hash.

Texts that share words lie close to each other, the same text always lies on the same point, and
nothing is learnt. Good for demonstrations and tests, not for search.
"""

import hashlib
import math
import re

NUM_DIMENSIONS = 256
_WORD = re.compile(r"\w+")


def hashed_vector(text: str, num_dimensions: int = NUM_DIMENSIONS) -> list[float]:
    """A vector of length 1; for a text without words the first axis."""
    vector = [0.0] * num_dimensions
    for word in _WORD.findall(text.lower()):
        digest = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
        vector[(digest >> 1) % num_dimensions] += 1.0 if digest & 1 else -1.0
    length = math.sqrt(sum(value * value for value in vector))
    if length == 0.0:
        return [1.0] + [0.0] * (num_dimensions - 1)
    return [value / length for value in vector]
