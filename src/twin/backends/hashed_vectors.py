"""Embeddings without a model: each word falls on one axis, by its hash.

Texts that share words lie close to each other, the same text always lies on the same point, and
nothing is learnt. Good for demonstrations and tests, not for search.
"""

import base64
import hashlib
import math
import re
import struct
from typing import Any

import msgspec

NUM_DIMENSIONS = 256
MAX_DIMENSIONS = 4096
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


def embeddings(request: dict[str, Any]) -> bytes:
    """What the `embeddings` dialect answers to `request`. Raises ValueError or TypeError where that
    is not as documented."""
    given = request.get("input", "")
    # One text, one list of token numbers, or a list of either.
    items = given if isinstance(given, list) and not _is_tokens(given) else [given]
    size = request.get("dimensions") or NUM_DIMENSIONS
    if not 0 < size <= MAX_DIMENSIONS:
        raise ValueError(f"`dimensions` is at most {MAX_DIMENSIONS}")
    data = []
    for place, item in enumerate(items):
        vector: list[float] | str = hashed_vector(
            item if isinstance(item, str) else " ".join(map(str, item)), size
        )
        if request.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        data.append({"object": "embedding", "index": place, "embedding": vector})
    num_tokens = sum(len(str(item)) for item in items) // 4
    return msgspec.json.encode(
        {
            "object": "list",
            "data": data,
            "model": str(request.get("model", "scripted")),
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
        }
    )


def _is_tokens(given: list[Any]) -> bool:
    return bool(given) and all(isinstance(item, int) for item in given)
