"""The recurrent states of several streams: each stream a row, rows come and go at any token.

`ArrayState` is what the native code advances, one block of float32; `TupleState` keeps the model's
own tuples, for networks that only torch knows. Both turn into the model's `State` and back exactly.
"""

from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import torch

from twin.lm import state as states
from twin.lm.config import HybridConfig
from twin.lm.decode.library import LANES, layer_floats, state_floats
from twin.lm.decode.packing import aligned
from twin.lm.state import State

Floats = npt.NDArray[np.float32]


class EngineState(Protocol):
    """What an engine advances: as many streams as `len` says."""

    def __len__(self) -> int: ...

    @property
    def num_bytes(self) -> int:
        """Of all streams together."""
        ...

    def copy(self) -> Self:
        """Shares no memory."""
        ...

    def row(self, place: int) -> Self:
        """A copy of one stream alone."""
        ...

    def append(self, other: Self) -> None:
        """Takes the streams of `other` in, behind its own."""
        ...

    def remove(self, place: int) -> None:
        """Drops a stream; the last one takes its place."""
        ...

    def to_model(self) -> State:
        """The model's own tuple, in new memory."""
        ...


class ArrayState:
    """Streams as rows of one array, which grows by doubling: joining costs one copy of one row."""

    def __init__(self, config: HybridConfig, rows: int) -> None:
        self.config = config
        self._rows = rows
        self._block = _zeros(max(rows, 1), state_floats(config))

    @classmethod
    def of(cls, config: HybridConfig, state: State) -> Self:
        """From the model's tuple. Raises BadState for another network's."""
        rows = state[0].shape[0] if state else 0
        states.check(config, state, rows)
        made = cls(config, rows)
        for part, tensor, place in zip(states.layout(config), state, _places(config), strict=True):
            numbers = tensor.detach().float().cpu()
            if part.name == "ssm":  # (P, N) there, (N, P) here: sums run along whole vectors
                numbers = numbers.transpose(-1, -2)
            made.data[:, place] = numbers.reshape(rows, -1).numpy()
        return made

    @property
    def data(self) -> Floats:
        """(streams, numbers), contiguous; the same memory until streams are taken in."""
        return self._block[: self._rows]

    def __len__(self) -> int:
        return self._rows

    @property
    def num_bytes(self) -> int:
        return self.data.nbytes

    def copy(self) -> Self:
        made = type(self)(self.config, len(self))
        made.data[:] = self.data
        return made

    def row(self, place: int) -> Self:
        made = type(self)(self.config, 1)
        made.data[0] = self.data[place]
        return made

    def append(self, other: Self) -> None:
        total = len(self) + len(other)
        if total > len(self._block):
            grown = _zeros(max(total, 2 * len(self._block)), self._block.shape[1])
            grown[: len(self)] = self.data
            self._block = grown
        self._block[len(self) : total] = other.data
        self._rows = total

    def remove(self, place: int) -> None:
        self.data[place] = self.data[-1]
        self._rows -= 1

    def to_model(self) -> State:
        parts = []
        for part, place in zip(states.layout(self.config), _places(self.config), strict=True):
            shape = part.shape if part.name != "ssm" else (*part.shape[:-2], *part.shape[:-3:-1])
            numbers = torch.from_numpy(self.data[:, place].copy()).view(len(self), *shape)
            parts.append(numbers.transpose(-1, -2) if part.name == "ssm" else numbers)
        return tuple(part.contiguous() for part in parts)


class TupleState:
    """Streams as the model's own tuples of one row each: their caches may differ in length."""

    def __init__(self, streams: Sequence[State]) -> None:
        self.streams = list(streams)

    @classmethod
    def of(cls, state: State) -> Self:
        rows = state[0].shape[0] if state else 0
        return cls([states.clone(states.take(state, [row])) for row in range(rows)])

    def __len__(self) -> int:
        return len(self.streams)

    @property
    def num_bytes(self) -> int:
        return sum(states.num_bytes(stream) for stream in self.streams)

    def copy(self) -> Self:
        return type(self)(self.streams)  # torch's tuples are never written to

    def row(self, place: int) -> Self:
        return type(self)([self.streams[place]])

    def append(self, other: Self) -> None:
        self.streams += other.streams

    def remove(self, place: int) -> None:
        self.streams[place] = self.streams[-1]
        self.streams.pop()

    def to_model(self) -> State:
        return states.clone(states.join(self.streams))


def _places(c: HybridConfig) -> list[slice]:
    """Where each part of the tuple lies in a row."""
    found, at, layer = [], 0, 0
    for part in states.layout(c):
        if part.layer != layer:
            layer = part.layer
            at = layer * layer_floats(c)
        size = int(np.prod(part.shape))
        found.append(slice(at, at + size))
        at += size
    return found


def _zeros(rows: int, width: int) -> Floats:
    assert width % LANES == 0
    block = aligned(4 * rows * width).view(np.float32).reshape(rows, width)
    block[:] = 0
    return block
