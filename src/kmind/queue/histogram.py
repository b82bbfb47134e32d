# SPDX-License-Identifier: Apache-2.0
"""Base-2 exponential histograms, as the agent counts in them (``include/kmind/table.h``).

Bucket i of scale s covers (2^(i / 2^s), 2^((i + 1) / 2^s)], as OpenTelemetry and Prometheus
number them. An array holds those from 2^low to 2^high, after one for all below and before one
for all above. Scale 0 is the plain histogram by powers of two.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from kmind.abi import layout

__all__ = ["bucket_bounds", "bucket_count", "bucket_of"]

_FINEST = layout.LIMIT["HISTOGRAM_SCALE"]


def bucket_count(scale: int, low: int, high: int) -> int:
    """Return the number of buckets of a histogram."""
    return 2 + ((high - low) << scale)


def bucket_of(value: int, scale: int, low: int, high: int) -> int:
    """The bucket of a value from 0 to 2^64 - 1: ``km_bucket`` in Python."""
    if value <= 1 << low:
        return 0
    if value > 1 << high:
        return bucket_count(scale, low, high) - 1
    power = value.bit_length() - 1
    part = value << (63 - power)
    bounds = _fine_bounds()
    if part == bounds[0]:  # a bound belongs to the bucket below it
        return (power - low) << scale
    step = 1 << (_FINEST - scale)
    return ((power - low) << scale) + sum(part > bound for bound in bounds[::step])


def bucket_bounds(scale: int, low: int, high: int) -> npt.NDArray[np.float64]:
    """Upper bounds of the buckets, each included; the last one is infinite."""
    steps = np.arange(((high - low) << scale) + 1)
    return np.append(2.0 ** (low + steps / (1 << scale)), np.inf)


@cache
def _fine_bounds() -> tuple[int, ...]:
    """2^(k/32) for k from 0 to 31, times 2^63, rounded down: ``km_bounds``."""
    parts = 1 << _FINEST
    return tuple(_root(1 << ((63 << _FINEST) + k), parts) for k in range(parts))


def _root(number: int, degree: int) -> int:
    # Newton's way, in whole numbers: the largest r with r^degree at most the number.
    root = 1 << -(-number.bit_length() // degree)
    while (closer := ((degree - 1) * root + number // root ** (degree - 1)) // degree) < root:
        root = closer
    return root
