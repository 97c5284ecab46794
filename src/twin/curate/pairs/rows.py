"""Which pairs go into a file, and how they are written there: chat messages, one object a line.

The form is that of TRL and the datasets library: `messages`, or `prompt`, `chosen` and `rejected`
for preferences; `metadata` beside it. Lines are pure ASCII, in the order of time.
"""

import json
import math
import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from twin.errors import UsageError
from twin.records import Pair
from twin.store.pairs import ListedPair

_ROUNDING: Final = 1e-9


def balanced(
    pairs: Sequence[ListedPair],
    *,
    per_repository: int | None = None,
    max_share: float | None = None,
    seed: int = 0,
) -> list[ListedPair]:
    """The pairs, or where a repository has too many a random choice of them; in their order.

    At most `per_repository` of each, and none holds more than the share `max_share` of what is
    left. Raises UsageError where there are too few repositories for that.
    """
    counts = Counter(pair.repository for pair in pairs)
    cap = max(counts.values(), default=0)
    if per_repository is not None:
        cap = min(cap, per_repository)
    if max_share is not None and counts:
        cap = _cap(list(counts.values()), cap, max_share)
    kept: set[int] = set()
    for repository in counts:
        own = [pair.pair_id for pair in pairs if pair.repository == repository]
        chance = random.Random(f"{seed} {repository}")
        kept.update(own if len(own) <= cap else chance.sample(own, cap))
    return [pair for pair in pairs if pair.pair_id in kept]


def row_of(pair: Pair) -> dict[str, Any]:
    """One line of the file."""
    prompt = [msgspec.to_builtins(message) for message in pair.prompt]
    metadata = {
        "kind": pair.kind,
        "num_tokens": pair.num_tokens,
        "content_hash": pair.content_hash,
        **({"stage": pair.stage} if pair.stage else {}),
        **msgspec.to_builtins(pair.origin),
    }
    if pair.kind == "preference":
        return {
            "prompt": prompt,
            "chosen": [_answer(pair.completion)],
            "rejected": [_answer(pair.rejected)],
            "metadata": metadata,
        }
    return {"messages": [*prompt, _answer(pair.completion)], "metadata": metadata}


def write_rows(path: Path, pairs: Iterable[Pair]) -> int:
    """Writes a file of pairs, whole or not at all, over the one that was there. Gives their number.

    Raises UsageError where there is no such folder.
    """
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}. Make it, or give another file.")
    num_rows = 0
    handle, unfinished = tempfile.mkstemp(prefix=f".{path.name[:50]}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            for pair in pairs:
                file.write(json.dumps(row_of(pair)) + "\n")
                num_rows += 1
            file.flush()
            os.fsync(file.fileno())
        Path(unfinished).chmod(0o644)
        os.replace(unfinished, path)
    except BaseException:  # Ctrl-C as well must leave nothing behind.
        Path(unfinished).unlink(missing_ok=True)
        raise
    return num_rows


def _answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _cap(counts: Sequence[int], highest: int, share: float) -> int:
    """The largest number of pairs a repository may keep so that none holds more than its share."""
    needed = math.ceil(1 / share - _ROUNDING)
    if len(counts) < needed:
        raise UsageError(
            f"With {len(counts)} repositories one of them holds more than {share:.0%}. Allow a "
            f"larger share, or add pairs of at least {needed} repositories."
        )
    low, high = 0, highest
    while low < high:
        middle = (low + high + 1) // 2
        if middle <= share * sum(min(count, middle) for count in counts) + _ROUNDING:
            low = middle
        else:
            high = middle - 1
    return low
