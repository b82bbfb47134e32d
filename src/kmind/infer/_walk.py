# SPDX-License-Identifier: Apache-2.0
"""Walking many vectors down many trees: of floats and of integers alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Trees", "add_leaves"]


class Trees(Protocol):
    """Nodes in one list, as ``IntTrees`` describes it; ``feature`` is negative in a leaf."""

    @property
    def root(self) -> NDArray[np.int32]: ...
    @property
    def output_of(self) -> NDArray[np.int32]: ...
    @property
    def feature(self) -> NDArray[np.int32]: ...
    @property
    def threshold(self) -> NDArray[Any]: ...
    @property
    def left(self) -> NDArray[np.int32]: ...
    @property
    def right(self) -> NDArray[np.int32]: ...
    @property
    def leaf(self) -> NDArray[Any]: ...
    @property
    def depth(self) -> int: ...


def add_leaves(
    trees: Trees, x: NDArray[Any], scores: NDArray[Any], leaf: NDArray[Any] | None = None
) -> None:
    """Add to ``scores[n, K]`` the leaf that each row of ``x[n, F]`` ends in, of every tree.

    One tree after the other, in their order: sums of floats are rounded as a loop rounds them.
    ``leaf`` are other leaves than the trees' own.
    """
    leaf = trees.leaf if leaf is None else leaf
    leaf = leaf.astype(scores.dtype)
    for output, rows in _leaves(trees, x):
        if leaf.shape[1] == 1:
            scores[:, output] += leaf[rows, 0]
        else:
            scores += leaf[rows]


def _leaves(trees: Trees, x: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.int32]]]:
    # For each tree the score that it adds to, and which leaf each row ends in.
    rows = np.arange(len(x))
    for root, output in zip(trees.root.tolist(), trees.output_of.tolist(), strict=True):
        node = np.full(len(x), root)
        for _ in range(trees.depth):
            feature = trees.feature[node]
            right = x[rows, feature] > trees.threshold[node]
            there = np.where(right, trees.right[node], trees.left[node])
            node = np.where(feature < 0, node, there)
        yield output, trees.left[node]
