# SPDX-License-Identifier: Apache-2.0
"""Measure how long writers wait per amount written, and judge whether a value shortens it."""

from __future__ import annotations

from collections import deque
from statistics import fmean

__all__ = ["BLOCKS", "Waiting"]

BLOCKS = 5
"""Blocks that a mean is taken of at least."""


class Waiting:
    """Seconds waited for each GiB written, in blocks of equal work under one value.

    Blocks are cut by what was written, not by time: so a quiet hour weighs nothing, and
    a burst counts the same whether it took long or not. The first block after
    ``restart`` is left out, as pages in it became dirty under another value.
    """

    def __init__(self, blocks: int = 12) -> None:
        self.costs: deque[float] = deque(maxlen=blocks)
        self._skip = True
        self._gib = 0.0
        self._waited = 0.0

    def learn_one(self, gib: float, waited: float, block_gib: float) -> None:
        """Add what was written and waited; ``block_gib`` of it makes a block."""
        self._gib += gib
        self._waited += waited
        if self._gib <= 0 or self._gib < block_gib:
            return
        if not self._skip:
            self.costs.append(self._waited / self._gib)
        self._skip = False
        self._gib = self._waited = 0.0

    def restart(self) -> None:
        """Another value stood meanwhile; the blocks so far are kept."""
        self._skip = True
        self._gib = self._waited = 0.0

    @property
    def enough(self) -> bool:
        """True if there are enough blocks for a judgement."""
        return len(self.costs) >= BLOCKS

    @property
    def mean(self) -> float:
        """Seconds waited for a GiB."""
        return fmean(self.costs) if self.costs else 0.0
