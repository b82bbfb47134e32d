# SPDX-License-Identifier: Apache-2.0
"""A pipe, completions by name, and patience, for the tests of rings."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from kmind.uring import Ring

ENOUGH_S = 20.0
"""For whatever ends at once on an idle machine."""


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


class Watched(Ring):
    """A ring that remembers what was in flight when it was given back; -1 before."""

    left = -1

    def _forget(self) -> None:
        self.left = self.in_flight
        super()._forget()


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe that nobody writes to."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def results(ring: Ring, count: int) -> dict[int, int]:
    """Wait for so many completions; return user_data to result."""
    found: dict[int, int] = {}
    deadline = time.monotonic() + ENOUGH_S
    while len(found) < count:
        ring.submit(1, 1.0)
        done = ring.reap()
        found.update(zip(done["user_data"].tolist(), done["res"].tolist(), strict=True))
        assert time.monotonic() < deadline, f"{len(found)} of {count} completions"
    return found
