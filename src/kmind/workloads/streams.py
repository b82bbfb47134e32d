# SPDX-License-Identifier: Apache-2.0
"""Access streams as arrays, for simulation and replay; no disk and no root needed.

A stream is an int64 array of shape (n, 2): the first page of each access, and
how many pages it takes. The same arguments give the same stream.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kmind.errors import UsageError

__all__ = ["Stream", "phased", "random", "sequential", "strided"]

Stream = npt.NDArray[np.int64]
"""Shape (n, 2): page index, length in pages."""


def sequential(n: int, *, pages: int, length: int = 1, start: int = 0) -> Stream:
    """``n`` accesses one after the other in a file of ``pages``, from the front again at its end.

    Each starts where the last one ended and takes ``length`` pages; the front is ``start``.
    """
    _check(pages - start, length)
    in_file = (pages - start) // length
    return _stream(start + length * (np.arange(n, dtype=np.int64) % in_file), length)


def strided(n: int, *, pages: int, stride: int, length: int = 1, start: int = 0) -> Stream:
    """``n`` accesses whose first pages are ``stride`` pages apart; a negative one goes backward."""
    _check(pages, length)
    slots = pages - length + 1  # so that each access lies inside the file
    return _stream((start + stride * np.arange(n, dtype=np.int64)) % slots, length)


def random(n: int, *, pages: int, length: int = 1, seed: int = 0) -> Stream:
    """``n`` accesses that start at uniformly random pages of a file of ``pages``."""
    _check(pages, length)
    generator = np.random.default_rng(seed)
    return _stream(generator.integers(0, pages - length + 1, n, dtype=np.int64), length)


def phased(phases: Sequence[Stream], *, period: int) -> Stream:
    """The streams by turns, ``period`` accesses at a time, each going on where it stopped.

    Ends when all are used up.
    """
    if period < 1:
        raise UsageError(f"period must be at least 1, not {period}")
    longest = max((len(phase) for phase in phases), default=0)
    parts = [
        phase[start : start + period] for start in range(0, longest, period) for phase in phases
    ]
    return np.concatenate(parts) if parts else np.empty((0, 2), np.int64)


def _check(pages: int, length: int) -> None:
    if not 1 <= length <= pages:
        raise UsageError(f"an access of {length} pages does not fit a file of {pages}")


def _stream(first: npt.NDArray[np.int64], length: int) -> Stream:
    return np.stack([first, np.full_like(first, length)], axis=1)
