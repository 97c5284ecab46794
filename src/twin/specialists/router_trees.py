"""Boosted trees for one row at a time, in numpy: what a request can wait for.

Owns the flat form of a forest and its evaluation. LightGBM itself takes half a second to load and
would be one more thing in the gateway's process; here all trees go down one level per step. Growing
trees is `train`'s business.
"""

from functools import cached_property
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from twin.specialists.trees import Forest

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MAX_DEPTH: Final = 64


class Trees(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Nodes of all trees in a row. A leaf is a node that leads to itself, so that trees of unequal
    depth go down together."""

    roots: tuple[int, ...]
    feature: tuple[int, ...]
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]
    """Of leaves; 0 for the others."""
    depth: int
    base: float
    """Added to the sum: what is predicted where no tree says anything."""

    @classmethod
    def constant(cls, base: float) -> "Trees":
        """No tree at all: the same answer for every row."""
        return cls(
            roots=(), feature=(), threshold=(), left=(), right=(), value=(), depth=0, base=base
        )

    @classmethod
    def of(cls, forest: Forest) -> "Trees":
        """From LightGBM's own form. The base is part of its first trees' leaves."""
        num_nodes, num_leaves = len(forest.feature), len(forest.leaf_value)

        def at(node: Ints) -> Ints:
            return np.where(node >= 0, node, num_nodes + ~node)

        leaves = np.arange(num_nodes, num_nodes + num_leaves)
        left = np.concatenate([at(forest.left), leaves])
        right = np.concatenate([at(forest.right), leaves])
        roots = at(forest.roots)
        return cls(
            roots=tuple(map(int, roots)),
            feature=(*map(int, forest.feature), *(0,) * num_leaves),
            threshold=(*map(float, forest.threshold), *(0.0,) * num_leaves),
            left=tuple(map(int, left)),
            right=tuple(map(int, right)),
            value=(*(0.0,) * num_nodes, *map(float, forest.leaf_value)),
            depth=_depth(roots, left, right),
            base=0.0,
        )

    def predict(self, row: Floats) -> float:
        """The sum over all trees for `row` [features]."""
        roots, feature, threshold, children, value = self._arrays
        node = roots
        for _ in range(self.depth):
            node = children[(row[feature[node]] > threshold[node]).view(np.int8), node]
        return float(value[node].sum()) + self.base

    def check(self, num_columns: int) -> None:
        """Raises ValueError where a node leads nowhere, or reads a column that is not there."""
        sizes = {len(part) for part in (self.feature, self.threshold, self.left, self.right)}
        count = len(self.value)
        if sizes != {count} or not 0 <= self.depth <= _MAX_DEPTH:
            raise ValueError("the trees have parts of unequal size")
        nodes = np.array([*self.roots, *self.left, *self.right, *self.feature], np.int64)
        if len(nodes) and (nodes.min() < 0 or np.max([*self.left, *self.right]) >= count):
            raise ValueError("a tree leads out of the forest")
        if self.roots and max(self.roots) >= count:
            raise ValueError("a tree has no root")
        if self.feature and max(self.feature) >= num_columns:
            raise ValueError("a tree reads a column that is not there")
        if not np.isfinite([self.base, *self.value]).all():
            raise ValueError("a tree's values are no numbers")

    @cached_property
    def _arrays(self) -> tuple[Ints, Ints, Floats, Ints, Floats]:
        return (
            np.array(self.roots, np.int64),
            np.array(self.feature, np.int64),
            np.array(self.threshold, np.float64),
            np.array([self.left, self.right], np.int64),
            np.array(self.value, np.float64),
        )


def _depth(roots: Ints, left: Ints, right: Ints) -> int:
    """Steps until every path has come to a leaf."""
    nodes = np.unique(roots)
    for steps in range(_MAX_DEPTH):
        if (left[nodes] == nodes).all():
            return steps
        nodes = np.unique(np.concatenate([left[nodes], right[nodes]]))
    raise ValueError("A tree is deeper than any that is grown here.")
