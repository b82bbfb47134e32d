# SPDX-License-Identifier: Apache-2.0
"""How long writers wait for what they write, and whether a value spares them some of it."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Collection
from statistics import fmean

__all__ = ["BLOCKS", "Waiting", "spared"]

BLOCKS = 5
"""Blocks that a mean is taken of at least."""

_Z = 1.645  # one-sided, 5%


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

    def restart(self, *, forget: bool) -> None:
        """Another value stands from now on; forget the blocks so far, or keep them."""
        if forget:
            self.costs.clear()
        self._skip = True
        self._gib = self._waited = 0.0

    @property
    def enough(self) -> bool:
        """Whether there are blocks enough to judge by."""
        return len(self.costs) >= BLOCKS

    @property
    def full(self) -> bool:
        """Whether there are as many as are kept."""
        return len(self.costs) == self.costs.maxlen

    @property
    def mean(self) -> float:
        """Seconds waited for a GiB."""
        return fmean(self.costs) if self.costs else 0.0


def spared(before: Collection[float], after: Collection[float]) -> float:
    """The share of waiting that was spared, or 0 if it may be chance.

    Mann and Whitney's test ("On a test of whether one of two random variables is
    stochastically larger than the other", 1947), one-sided at 5%, by the normal
    approximation with its variance corrected for ties: bursts leave many blocks that
    nobody waited for.
    """
    one, other = len(before), len(after)
    if not one or not other or fmean(before) <= 0:
        return 0.0
    lower = sum((a < b) + (a == b) / 2 for a in after for b in before)
    total = one + other
    ties = sum(count**3 - count for count in Counter([*before, *after]).values())
    variance = one * other / 12 * (total + 1 - ties / (total * (total - 1)))
    if variance <= 0 or (lower - one * other / 2) / math.sqrt(variance) < _Z:
        return 0.0
    return max(0.0, 1 - fmean(after) / fmean(before))
