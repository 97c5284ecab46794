"""Batches of a corpus: parallel streams whose state is handed on, or windows drawn by chance.

Owns the order in which tokens are seen. That order is a function of a seed and a small position,
so that a run that was killed continues with exactly the tokens that it would have seen. Needs
numpy alone.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from twin.lm.corpus import Tokens
from twin.lm.errors import BadCheckpoint, BadCorpus

Order = Literal["handoff", "windows"]
ORDERS: Final[tuple[Order, ...]] = ("handoff", "windows")

_STRETCHES: Final = 8
"""Stretches that a stream should have in an epoch, at least."""

Batch = tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]
"""(tokens_BT1: T inputs a row and, one later, T targets; fresh_B: rows whose state starts anew)"""


class Batches:
    """An endless sequence of batches, each of B streams side by side.

    `handoff`: a stream goes through `span` consecutive windows, its state handed on from one to the
    next, then jumps to another stretch of the text, drawn by chance; streams jump at different
    times. With a span of 0 a stream never jumps: it goes through its own B-th of the text.
    `windows`: every window stands alone, which is a span of 1.
    An epoch takes every stretch once, and each epoch cuts the text at another offset.
    """

    def __init__(
        self,
        tokens: Tokens,
        *,
        order: Order = "handoff",
        span: int = 8,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._tokens = tokens
        self._span = span if order == "handoff" else 1
        self._seed = seed
        self._rank = rank
        self._world = world
        self._shape = (0, 0)
        self._epoch = -1
        self._gone = 0.0
        """Times the text was gone through before this epoch."""
        self._done = 0
        """Tokens that each stream has seen in this epoch."""
        self._stretch = 0
        self._starts_SB = np.empty((0, 0), dtype=np.int64)
        self._phase_B = np.empty(0, dtype=np.int64)

    @property
    def epochs(self) -> float:
        """How often the text was gone through."""
        return self._gone + min(self._done * self._shape[0] / len(self._tokens), 1.0)

    def position(self) -> dict[str, Any]:
        """Where it stands, JSON-ready; `restore` goes on from there."""
        return {
            "num_tokens": len(self._tokens),
            "span": self._span,
            "seed": self._seed,
            "epoch": self._epoch,
            "gone": self._gone,
            "done": self._done,
            "shape": list(self._shape),
        }

    def restore(self, position: Mapping[str, Any]) -> None:
        """Raises BadCheckpoint for a position in another text or order."""
        here = self.position()
        for name in ("num_tokens", "span", "seed"):
            if position.get(name) != here[name]:
                raise BadCheckpoint(
                    f"The run was started with {name} = {position.get(name)}, not {here[name]}. "
                    "Continue it with the same text and recipe, or start anew."
                )
        self._epoch, self._done = int(position["epoch"]), int(position["done"])
        self._gone = float(position.get("gone", max(self._epoch, 0)))
        batch, window = position["shape"]
        self._shape = (int(batch), int(window))
        if batch:
            self._lay_out()

    def next(self, batch: int, window: int) -> Batch:
        """The next `batch` rows of `window` inputs (this rank's share of them). Raises BadCorpus
        where the text is too short for the shape."""
        if (batch, window) != self._shape or self._over():
            check_fits(len(self._tokens), batch, window)
            if self._epoch >= 0:  # a new shape lays the text out anew in the middle of an epoch
                self._gone = self._gone + 1.0 if self._over() else self.epochs
            self._shape = (batch, window)
            self._epoch += 1
            self._done = 0
            self._lay_out()
        number_B, inside_B = np.divmod(self._done + self._phase_B, self._stretch)
        at_B = self._starts_SB[number_B, np.arange(batch)] + inside_B
        fresh_B = (inside_B == 0) | (self._done == 0)
        self._done += window
        mine = slice(self._rank, None, self._world)
        at_BT1 = at_B[mine, None] + np.arange(window + 1)
        tokens_BT1 = np.take(self._tokens, at_BT1, mode="wrap").astype(np.int64)
        return tokens_BT1, fresh_B[mine]

    def _over(self) -> bool:
        """Whether a stream has come to the end of its last stretch."""
        furthest = self._done + int(self._phase_B.max(initial=0))
        return furthest // max(self._stretch, 1) >= len(self._starts_SB)

    def _lay_out(self) -> None:
        """Where this epoch's stretches start, and how far into its first each stream begins."""
        batch, window = self._shape
        length = len(self._tokens)
        draw = np.random.default_rng([self._seed, self._epoch])
        self._phase_B = np.zeros(batch, dtype=np.int64)
        if not self._span:
            # Laid in a ring: a stream may run over the end of the text into its beginning.
            self._stretch = length // batch // window * window
            starts_B = draw.integers(length) + np.arange(batch, dtype=np.int64) * (length // batch)
            self._starts_SB = starts_B[None]
            return
        # In a short text shorter stretches, so that few are left over.
        span = max(1, min(self._span, length // (_STRETCHES * batch * window)))
        self._stretch = span * window
        offset = int(draw.integers(self._stretch))
        starts = np.arange(offset, length - self._stretch, self._stretch, dtype=np.int64)
        count = len(starts) // batch
        self._starts_SB = draw.permutation(starts)[: count * batch].reshape(count, batch)
        if span > 1:
            self._phase_B = np.arange(batch, dtype=np.int64) * span // batch * window


def check_fits(num_tokens: int, batch: int, window: int) -> None:
    """Raises BadCorpus, with a shape that fits, where a corpus has fewer tokens than one batch."""
    if num_tokens >= batch * (window + 1) + window:
        return
    rows = max(1, min(batch, num_tokens // (2 * window + 2)))
    fitting = max(1, min(window, num_tokens // (2 * rows) - 1))
    raise BadCorpus(
        f"The text has {num_tokens:,} tokens to learn from, fewer than a batch of {batch} windows "
        f"of {window}. Give more text, or `--batch {rows} --window {fitting}`."
    )
