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

Batch = tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]
"""(tokens_BT1: T inputs a row and, one later, T targets; fresh_B: rows whose state starts anew)"""


class Batches:
    """An endless sequence of batches.

    `handoff`: B streams, each over its own B-th of the corpus; every batch goes on where the one
    before stopped. An epoch starts at another offset each time, so that windows and streams never
    lie twice the same way. `reset`: the share of rows whose state starts anew all the same, since a
    model is also used without a past.
    `windows`: all windows of one offset, in an order drawn for each epoch; every row is fresh.
    """

    def __init__(
        self,
        tokens: Tokens,
        *,
        order: Order = "handoff",
        seed: int = 0,
        reset: float = 0.0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._tokens = tokens
        self._order = order
        self._seed = seed
        self._reset = reset
        self._rank = rank
        self._world = world
        self._shape = (0, 0)
        self._epoch = -1
        self._done = 0
        self._starts_B = np.empty(0, dtype=np.int64)

    @property
    def epochs(self) -> float:
        """How often the corpus was gone through."""
        batch, window = self._shape
        per_stream = len(self._tokens) // max(batch, 1)
        seen = self._done * (window if self._order == "windows" else 1)
        return self._epoch + min(seen / max(per_stream, 1), 1.0) if batch else 0.0

    def position(self) -> dict[str, Any]:
        """Where it stands, JSON-ready; `restore` goes on from there."""
        return {
            "num_tokens": len(self._tokens),
            "order": self._order,
            "seed": self._seed,
            "epoch": self._epoch,
            "done": self._done,
            "shape": list(self._shape),
        }

    def restore(self, position: Mapping[str, Any]) -> None:
        """Raises BadCheckpoint for a position in another corpus or order."""
        here = self.position()
        for name in ("num_tokens", "order", "seed"):
            if position.get(name) != here[name]:
                raise BadCheckpoint(
                    f"The run was started with {name} = {position.get(name)}, not {here[name]}. "
                    "Continue it with the same text and recipe, or start anew."
                )
        self._epoch, self._done = int(position["epoch"]), int(position["done"])
        batch, window = position["shape"]
        self._shape = (int(batch), int(window))
        if batch:
            self._lay_out()

    def next(self, batch: int, window: int) -> Batch:
        """The next `batch` rows of `window` inputs (this rank's share of them). Raises BadCorpus
        where the corpus is too short for the shape."""
        self._begin(batch, window)
        position = self._done
        if self._order == "windows":
            picked_B = self._starts_B[position * batch : (position + 1) * batch]
            fresh_B = np.ones(batch, dtype=np.bool_)
            self._done += 1
        else:
            picked_B = self._starts_B + position
            fresh_B = np.full(batch, position == 0)
            if self._reset and position:
                draw = np.random.default_rng([self._seed, self._epoch, position, 1])
                fresh_B |= draw.random(batch) < self._reset
            self._done += window
        mine = slice(self._rank, None, self._world)
        at_BT1 = picked_B[mine, None] + np.arange(window + 1)
        tokens_BT1 = np.take(self._tokens, at_BT1, mode="wrap").astype(np.int64)
        return tokens_BT1, fresh_B[mine]

    def _begin(self, batch: int, window: int) -> None:
        """A new epoch where the old one is over, or where the shape is another."""
        check_fits(len(self._tokens), batch, window)
        changed = batch != self._shape[0] or (self._order == "windows" and self._shape[1] != window)
        if self._order == "windows":
            over = (self._done + 1) * batch > len(self._starts_B)
        else:
            over = self._done + window > len(self._tokens) // batch
        self._shape = (batch, window)
        if changed or over or self._epoch < 0:
            self._epoch += 1
            self._done = 0
            self._lay_out()

    def _lay_out(self) -> None:
        """Where the streams, or the windows, of this epoch start."""
        batch, window = self._shape
        length = len(self._tokens)
        draw = np.random.default_rng([self._seed, self._epoch])
        if self._order == "windows":
            offset = int(draw.integers(window))
            starts_B = np.arange(offset, length - window, window, dtype=np.int64)
            self._starts_B = draw.permutation(starts_B)
        else:
            # Corpora are laid in a ring: a stream may run over the end into the beginning.
            offset = int(draw.integers(length))
            self._starts_B = offset + np.arange(batch, dtype=np.int64) * (length // batch)


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
