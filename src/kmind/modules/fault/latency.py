# SPDX-License-Identifier: Apache-2.0
"""Laws of a disk's latency: constant, drawn from a distribution, by schedule, or replayed.

A law is asked for batches in the order of the requests. With the same seed it answers the same for
the same requests, however they come in batches. _Times are nanoseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kmind.driver import LONGEST_DELAY_NS, Op
from kmind.errors import UsageError

__all__ = ["Constant", "Empirical", "Law", "Lognormal", "Replayed", "Schedule"]

_Times = npt.NDArray[np.int64]
_WRITE = int(Op.WRITE)
_LARGEST_SIGMA = 5.0


class Law(Protocol):
    """The latency of each request."""

    def draw(self, op: npt.NDArray[np.uint8], at_ns: int) -> _Times:
        """Latencies of the next requests, which came ``at_ns`` after the disk began."""


@dataclass(frozen=True)
class Constant:
    """The same for all."""

    ns: int

    def __post_init__(self) -> None:
        _check([self.ns])

    def draw(self, op: npt.NDArray[np.uint8], at_ns: int) -> _Times:
        """``ns`` for each."""
        return np.full(len(op), self.ns, np.int64)


class Lognormal:
    """The logarithm is normal: ``sigma`` is its standard deviation, ``median_ns`` the median.

    A sigma of 0.5 puts the 99th percentile at 3.2 times the median, one of 1 at 10 times.
    """

    def __init__(self, median_ns: int, sigma: float, random: np.random.Generator) -> None:
        _check([median_ns])
        if not 0 <= sigma <= _LARGEST_SIGMA:
            raise UsageError(f"sigma cannot be {sigma}", hint=f"give 0 to {_LARGEST_SIGMA:g}")
        self._median, self._sigma, self._random = median_ns, sigma, random

    def draw(self, op: npt.NDArray[np.uint8], at_ns: int) -> _Times:
        """Drawn for each; none longer than a day."""
        ns = self._median * np.exp(self._sigma * self._random.standard_normal(len(op)))
        bounded: _Times = np.minimum(ns, LONGEST_DELAY_NS).astype(np.int64)
        return bounded


class Empirical:
    """Drawn from a sample, each of its values as likely as another."""

    def __init__(self, sample_ns: npt.ArrayLike, random: np.random.Generator) -> None:
        self._sample = _check(sample_ns)
        self._random = random

    def draw(self, op: npt.NDArray[np.uint8], at_ns: int) -> _Times:
        """One value of the sample for each."""
        chosen = self._random.random(len(op)) * len(self._sample)
        return self._sample[chosen.astype(np.int64)]


class Schedule:
    """A step function of the time since the disk began; no latency before its first step.

    ``at_ns`` are the times of the steps, in their order, ``latency_ns`` what holds from then on.
    """

    def __init__(self, at_ns: npt.ArrayLike, latency_ns: npt.ArrayLike) -> None:
        self._at, self._latency = np.asarray(at_ns, np.int64), _check(latency_ns)
        if self._at.shape != self._latency.shape or (np.diff(self._at) <= 0).any():
            raise UsageError("the times of a schedule have to rise", hint="sort its steps")

    def draw(self, op: npt.NDArray[np.uint8], at_ns: int) -> _Times:
        """The latency of this time."""
        step = int(np.searchsorted(self._at, at_ns, "right")) - 1
        return np.full(len(op), self._latency[step] if step >= 0 else 0, np.int64)


class Replayed:
    """The latencies of another disk's reads and writes, in their order, over and over.

    Flushes, discards and zeroes take what the next write does. Where only one kind was recorded,
    the other has no latency.
    """

    def __init__(self, reads_ns: npt.ArrayLike, writes_ns: npt.ArrayLike) -> None:
        self._recorded = [np.asarray(one, np.int64) for one in (reads_ns, writes_ns)]
        _check(np.concatenate(self._recorded))
        self._next = [0, 0]

    def draw(self, op: npt.NDArray[np.uint8], at_ns: int) -> _Times:
        """The next of each kind."""
        ns = np.zeros(len(op), np.int64)
        writes = op >= _WRITE
        for kind, mask in enumerate((~writes, writes)):
            recorded, count = self._recorded[kind], int(mask.sum())
            if count and len(recorded):
                ns[mask] = recorded[(self._next[kind] + np.arange(count)) % len(recorded)]
                self._next[kind] = (self._next[kind] + count) % len(recorded)
        return ns


def _check(times_ns: npt.ArrayLike | Sequence[int]) -> _Times:
    times = np.asarray(times_ns)
    if not times.size:
        raise UsageError("there is no latency among these", hint="give one at least")
    if times.dtype.kind not in "iuf" or not np.all((times >= 0) & (times <= LONGEST_DELAY_NS)):
        raise UsageError("a latency has to be 0 to a day", hint="give nanoseconds")
    return times.astype(np.int64)
