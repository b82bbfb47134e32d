# SPDX-License-Identifier: Apache-2.0
"""A/A noise: how far blocks lie apart when nothing changes, and which gains it can hide."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kmind.evidence._base import Design
from kmind.evidence.betting import detectable_delta

__all__ = ["Noise", "clipped_mean", "log_ratio", "robust_scale", "usable"]

_KEPT = 512
_FLOOR = 1e-4  # noise below a hundredth of a percent is taken for that
_FAR = math.log(1000)  # a ratio with a zero on one side counts as this
_POWER_Z = 0.8416  # the 80% quantile of the normal law


def usable(value: float | None) -> bool:
    """True if a block's value can be compared: finite, and not below zero."""
    return value is not None and math.isfinite(value) and value >= 0


def log_ratio(value: float, base: float) -> float:
    """Logarithm of ``value / base``, bounded to a factor of 1000; equal zeros give 0."""
    if value == base:
        return 0.0
    if value == 0 or base == 0:
        return _FAR if base == 0 else -_FAR
    return min(max(math.log(value) - math.log(base), -_FAR), _FAR)


def robust_scale(residuals: Sequence[float]) -> float:
    """Root mean square of residuals, those beyond four robust deviations held there.

    The robust deviation is the median of the absolute residuals times 1.4826 (Hampel 1974).
    """
    if not len(residuals):
        return _FLOOR
    size = np.abs(np.asarray(residuals, float))
    middle = 1.4826 * float(np.median(size))
    if middle > 0:
        size = np.minimum(size, 4 * middle)
    return max(float(np.sqrt(np.mean(size * size))), _FLOOR)


def clipped_mean(values: Sequence[float]) -> float:
    """The mean, with what lies beyond two robust deviations from the median held there."""
    past = np.asarray(values, float)
    median = float(np.median(past))
    reach = 2 * robust_scale(list(past - median))
    return float(np.mean(np.clip(past, median - reach, median + reach)))


class Noise:
    """Statistics of blocks under the incumbent; at most the last 512 are kept."""

    def __init__(self) -> None:
        self._values: deque[float | None] = deque(maxlen=_KEPT)

    def learn_one(self, value: float | None) -> None:
        """Take one block under the incumbent; None, NaN or a negative number is a gap."""
        self._values.append(value if usable(value) else None)

    @property
    def blocks(self) -> int:
        """Number of usable blocks."""
        return sum(value is not None for value in self._values)

    @property
    def level(self) -> float | None:
        """The median block, or None before the first."""
        values = [value for value in self._values if value is not None]
        return float(np.median(values)) if values else None

    def _differences(self) -> list[float]:
        # Between neighbours without a gap.
        return [
            log_ratio(after, before)
            for before, after in itertools.pairwise(self._values)
            if before is not None and after is not None
        ]

    @property
    def sigma(self) -> float | None:
        """Noise of the log ratio of two neighbours, or None before there are four pairs."""
        differences = self._differences()
        return robust_scale(differences) if len(differences) >= 4 else None

    def detectable(self, design: Design, *, max_pairs: int | None = None) -> float:
        """The smallest gain found in four of five experiments, as a ratio; infinity if none."""
        sigma = self.sigma
        pairs = design.max_blocks // 2 if max_pairs is None else max_pairs
        if sigma is None or not math.isfinite(detectable_delta(pairs, design.keep_level)):
            return math.inf
        # Few blocks may have been quieter than the rest will be: take the upper end (80%).
        unsure = 1 + _POWER_Z / math.sqrt(2 * (self.blocks / 2))
        delta = detectable_delta(pairs, design.keep_level)
        return math.exp(min(delta * sigma * unsure, _FAR)) * (1 + design.min_gain)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"values": list(self._values)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Noise:
        """Read what ``to_dict`` wrote."""
        noise = cls()
        for value in data["values"]:
            noise.learn_one(value)
        return noise
