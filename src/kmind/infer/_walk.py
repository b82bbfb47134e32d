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


def add_leaves(trees: Trees, x: NDArray[Any], scores: NDArray[Any]) -> None:
    """Add to ``scores[n, K]`` the leaf that each row of ``x[n, F]`` ends in, of every tree."""
    for output, rows in _leaves(trees, x):
        values = trees.leaf[rows].astype(scores.dtype)
        if values.shape[1] == 1:
            scores[:, output] += values[:, 0]
        else:
            scores += values


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
