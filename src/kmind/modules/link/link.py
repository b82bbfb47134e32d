# SPDX-License-Identifier: Apache-2.0
"""A link between two interfaces: what comes in at one end leaves at the other, or is lost."""

from __future__ import annotations

import time
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kmind.modules.link.path import Conditions, Path, Tally
from kmind.modules.link.trace import Course

__all__ = ["Frames", "Link"]

_Ints = npt.NDArray[np.int64]


class Frames(Protocol):
    """The part of a batch of frames that a link needs."""

    source: _Ints
    arrival: int

    def __len__(self) -> int: ...

    @property
    def packets(self) -> _Ints:
        """The packets that each frame stands for."""

    @property
    def wire(self) -> _Ints:
        """Their bytes."""

    def forward(self, which: _Ints, to: int) -> None:
        """Send frames out of an interface."""

    def delay(self, which: _Ints, ns: _Ints) -> None:
        """Let them go so long after their arrival."""

    def drop(self, which: _Ints) -> None:
        """Throw them away."""


class Link:
    """A network driver of two interfaces, 0 and 1.

    ``there`` holds for frames from 0 to 1, ``back`` for those from 1 to 0; it is the same unless
    told. What is lost, and how late frames are, follows from ``seed``, for each direction by
    itself. A ``course`` (`read_course`) changes both directions' conditions as time goes by.
    """

    def __init__(
        self,
        there: Conditions,
        back: Conditions | None = None,
        *,
        seed: int = 0,
        course: Course | None = None,
    ) -> None:
        start = time.monotonic_ns()
        seeds = np.random.SeedSequence(seed).spawn(2)
        self.paths = tuple(
            Path(conditions, own, start, course)
            for conditions, own in zip((there, back or there), seeds, strict=True)
        )

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """The packets of each direction, and what became of them."""
        return tuple(path.tally for path in self.paths)

    def serve(self, batch: Frames) -> None:
        """Give each frame its time, or drop it."""
        for source, path in enumerate(self.paths):
            mine = np.flatnonzero(batch.source == source)
            if not len(mine):
                continue
            leaves = path.admit(batch.arrival, batch.wire[mine], batch.packets[mine])
            gone = leaves < 0
            if gone.any():
                batch.drop(mine[gone])
                mine, leaves = mine[~gone], leaves[~gone]
            batch.forward(mine, 1 - source)
            batch.delay(mine, leaves - batch.arrival)
