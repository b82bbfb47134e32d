# SPDX-License-Identifier: Apache-2.0
"""The end of an integer model: its threshold, and the table of its probability."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kmind.infer.floating import Target, activate
from kmind.infer.integer_parts import Output, Step

__all__ = ["PROBABILITY_ONE", "make_output"]

PROBABILITY_ONE = 32767

_F64 = NDArray[np.float64]


def make_output(target: Target, unit: float) -> Output:
    """Return the integer output of scores whose units are worth that much."""
    threshold = math.floor(target.threshold / unit)
    probability = None
    if target.kind == "threshold" and target.link != "none":
        low, high = (0.0, 1.0)
        if target.link == "logistic":
            high = 8.0 / target.slope
            low = -high
        size = 1024
        wanted = (high - low) / size / unit
        shift = max(math.ceil(math.log2(wanted)) - 1, 0) if wanted > 1 else 0
        # One entry is 2**shift units: finer than wanted, over a table twice as long.
        width = unit * 2.0**shift
        size *= 2
        centre = round((low + high) / 2 / width)
        z: _F64 = (np.arange(size, dtype=np.float64) - size // 2 + centre + 0.5) * width
        p = (
            activate("sigmoid", target.slope * z)
            if target.link == "logistic"
            else np.clip(z, 0.0, 1.0)
        )
        table = np.rint(p * PROBABILITY_ONE).astype(np.int16)
        probability = Step(1, (size // 2 - centre) << shift, shift, 0, size - 1, table)
    return Output(target.kind, threshold, unit, probability)
