# SPDX-License-Identifier: Apache-2.0
"""Files with latencies: a sample, or a schedule.

A sample has one latency in microseconds a line, a schedule the second since the disk began and the
latency in microseconds from then on. Empty lines, and what follows a ``#``, are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kmind.driver import LONGEST_DELAY_NS
from kmind.errors import KmindError, UsageError

__all__ = ["read_sample", "read_schedule"]

_MOST_BYTES = 64 << 20
_US, _S = 1_000, 10**9
_Times = npt.NDArray[np.int64]


def read_sample(path: Path) -> _Times:
    """Latencies in nanoseconds. Raises UsageError, in one line that names the file's line."""
    found = []
    for number, words in _lines(path):
        if len(words) != 1:
            raise _wrong(path, number, f"has {len(words)} numbers", "write one latency in us")
        found.append(_latency(path, number, words[0]))
    return _some(path, found)


def read_schedule(path: Path) -> tuple[_Times, _Times]:
    """_Times of the steps, and latencies from then on, both in nanoseconds; errors as above."""
    at: list[int] = []
    latencies = []
    for number, words in _lines(path):
        if len(words) != 2:
            hint = "write the second, and the latency in us"
            raise _wrong(path, number, f"has {len(words)} numbers, not two", hint)
        second = _number(path, number, words[0])
        if not 0 <= second <= LONGEST_DELAY_NS / _S:
            raise _wrong(path, number, f"begins at {words[0]} s", "give 0 to a day")
        at.append(round(second * _S))
        if len(at) > 1 and at[-1] <= at[-2]:
            raise _wrong(path, number, "is not later than the one before", "sort the steps")
        latencies.append(_latency(path, number, words[1]))
    return _some(path, at), np.array(latencies, np.int64)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{path} has over {_MOST_BYTES >> 20} MiB", hint="give a smaller file")
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        if words := line.partition("#")[0].split():
            yield number, words


def _latency(path: Path, number: int, word: str) -> int:
    us = _number(path, number, word)
    if not 0 <= us * _US <= LONGEST_DELAY_NS:
        raise _wrong(path, number, f"has a latency of {word[:20]} us", "give 0 to a day")
    return round(us * _US)


def _number(path: Path, number: int, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        shown = ascii(word[:20])
        raise _wrong(path, number, f"has {shown}, no number", "write plain numbers") from None


def _some(path: Path, found: list[int]) -> _Times:
    if not found:
        raise UsageError(f"{path} has no latency", hint="write one number a line")
    return np.array(found, np.int64)


def _wrong(path: Path, number: int, what: str, hint: str) -> KmindError:
    return UsageError(f"{path}: line {number} {what}", hint=hint)
