# SPDX-License-Identifier: Apache-2.0
"""Choice of requests that fail: by range, by share, or by number."""

from __future__ import annotations

import errno
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kmind.driver import Batch, Op
from kmind.errors import UsageError

__all__ = ["Failures"]


@dataclass(frozen=True)
class Failures:
    """A request fails with ``error`` if one of these is true of it.

    ``ranges``: it touches one, from a byte to before another. ``share``: a number drawn for it is
    below that. ``numbers``: it is the n-th of all, from 0 on. Only ``ops`` can fail.
    """

    ranges: tuple[tuple[int, int], ...] = ()
    share: float = 0.0
    numbers: frozenset[int] = frozenset()
    error: int = errno.EIO
    ops: Collection[Op] = (Op.READ, Op.WRITE)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UsageError(f"a share of {self.share} cannot fail", hint="give 0 to 1")
        if self.error not in errno.errorcode:
            raise UsageError(f"there is no error {self.error}", hint="give one as EIO (5)")
        for first, end in self.ranges:
            if not 0 <= first < end < 1 << 63:
                raise UsageError(
                    f"there is no range from {first} to {end}",
                    hint="give the first byte, and the one after the last",
                )

    def choose(
        self, batch: Batch, first: int, random: np.random.Generator
    ) -> npt.NDArray[np.bool_]:
        """The mask of the requests that fail; the batch begins with the ``first``-th of all."""
        # Drawn for each, whatever else may choose it: so the next ones do not depend on that.
        chosen = random.random(len(batch)) < self.share
        if self.ranges:
            chosen |= batch.touches(self.ranges)
        if self.numbers:
            chosen |= np.isin(np.arange(first, first + len(batch)), list(self.numbers))
        return chosen & np.isin(batch.op, [int(op) for op in self.ops])
