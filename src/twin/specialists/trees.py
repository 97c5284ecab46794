"""What each feature gave to the score of a boosted-tree model, fast enough for every answer.

Reads LightGBM's text format for explanation only; scores still come from LightGBM. A feature's part
is the sum, over all trees, of how the mean of the node changes where a row is sent on by that
feature (Saabas 2014): the parts and the base sum to the score exactly. Shapley values share credit
more fairly among features that go together, and take twenty times as long.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Forest:
    """All trees in flat arrays. A child >= 0 is a node, below 0 the leaf ~child, both counted over
    the whole forest."""

    roots: Ints
    """[trees] the first node; ~leaf for a tree without a split."""
    feature: Ints
    threshold: Floats
    left: Ints
    right: Ints
    node_value: Floats
    leaf_value: Floats

    @classmethod
    def parse(cls, text: str) -> "Forest":
        """From the text of a model with numerical splits. Raises ValueError for any other."""
        trees = [_fields(block) for block in text.split("\nTree=")[1:]]
        roots: list[int] = []
        parts: dict[str, list[Floats]] = {name: [] for name in _COLUMNS}
        num_nodes = num_leaves = 0
        for tree in trees:
            if any(int(kind) & 1 for kind in tree.get("decision_type", "").split()):
                raise ValueError("The model has categorical splits, which are not explained.")
            columns = {name: np.array(tree.get(name, "").split(), np.float64) for name in _COLUMNS}
            roots.append(num_nodes if len(columns["threshold"]) else ~num_leaves)
            for side in ("left_child", "right_child"):
                child = columns[side]
                columns[side] = np.where(child >= 0, child + num_nodes, child - num_leaves)
            for name, column in columns.items():
                parts[name].append(column)
            num_nodes += len(columns["threshold"])
            num_leaves += len(columns["leaf_value"])
        joined = {name: np.concatenate(found or [np.empty(0)]) for name, found in parts.items()}
        return cls(
            roots=np.array(roots, np.int64),
            feature=joined["split_feature"].astype(np.int64),
            threshold=joined["threshold"],
            left=joined["left_child"].astype(np.int64),
            right=joined["right_child"].astype(np.int64),
            node_value=joined["internal_value"],
            leaf_value=joined["leaf_value"],
        )

    def contributions(self, values: Floats) -> Floats:
        """[rows, features] parts for `values` of the same shape."""
        parts = np.zeros(values.shape)
        roots = self.roots[self.roots >= 0]
        row = np.repeat(np.arange(len(values)), len(roots))
        node = np.tile(roots, len(values))
        while len(node):
            feature = self.feature[node]
            goes_left = values[row, feature] <= self.threshold[node]
            child = np.where(goes_left, self.left[node], self.right[node])
            inner = child >= 0
            after = np.empty(len(child))
            after[inner] = self.node_value[child[inner]]
            after[~inner] = self.leaf_value[~child[~inner]]
            np.add.at(parts, (row, feature), after - self.node_value[node])
            row, node = row[inner], child[inner]
        return parts


_COLUMNS: Sequence[str] = (
    "split_feature", "threshold", "left_child", "right_child", "internal_value", "leaf_value",
)  # fmt: skip


def _fields(block: str) -> dict[str, str]:
    """The `name=value` lines of one tree."""
    lines = block.split("\n\n", 1)[0].split("\n")
    return dict(line.split("=", 1) for line in lines if "=" in line)
