# SPDX-License-Identifier: Apache-2.0
"""The space that is searched: knobs as positions from 0 to 1, and a region of trust in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from kmind.extension import KnobInfo

__all__ = ["Codes", "Dimension", "Point", "codes_of"]

Codes = tuple[int, ...]
"""One value for each knob, as the queue has it."""

Point = tuple[float, ...]
"""One position for each knob."""

# A range over so many orders is searched by its logarithm, down to so small a part of it.
_WIDE_FROM_0, _WIDE = 1000, 32
_LEAST_PART = 4096
# Where that part lies; what is below, often 0, has its place at 0.
_ZERO = 0.02


@dataclass
class Dimension:
    """One knob. ``out`` are codes that the agent has refused, as no part of the range.

    ``baseline`` is the code of the value at the start.
    """

    info: KnobInfo
    out: set[int] = field(default_factory=set)
    baseline: int = field(init=False)

    def __post_init__(self) -> None:
        self.baseline = self.info.encode(self.info.baseline)

    @property
    def is_choice(self) -> bool:
        """True if its values have no order."""
        return self.info.kind == "enum"

    @property
    def codes(self) -> list[int]:
        """All values of one that has no order."""
        return [code for code in range(len(self.info.choices)) if code not in self.out]

    @property
    def _least(self) -> int:
        # Start of the logarithm; 0 if the range is searched linearly.
        low, high = self.info.minimum, self.info.maximum
        least = max(low, self.info.grid, high // _LEAST_PART)
        wide = high >= _WIDE * low if low > 0 else low == 0 and high >= _WIDE_FROM_0
        return least if wide and 0 < least < high else 0

    def position(self, code: int) -> float:
        """Return a value's position from 0 to 1; for a choice its index."""
        if self.is_choice:
            return float(code)
        low, high = self.info.minimum, self.info.maximum
        if self._least:
            if code < self._least:
                return 0.0
            part = math.log(code / self._least) / math.log(high / self._least)
            return _ZERO + (1 - _ZERO) * part
        return min(1.0, max(0.0, (code - low) / (high - low))) if high > low else 0.0

    def code(self, position: float) -> int:
        """The value there, on the knob's grid and within its range."""
        if self.is_choice:
            return int(position)
        low, high, grid = self.info.minimum, self.info.maximum, max(1, self.info.grid)
        if self._least and position < _ZERO / 2:
            return low
        if self._least:
            part = min(1.0, max(0.0, (position - _ZERO) / (1 - _ZERO)))
            value = self._least * math.pow(high / self._least, part)
        else:
            value = low + (high - low) * min(1.0, max(0.0, position))
        return max(-(-low // grid) * grid, min(high // grid * grid, round(value / grid) * grid))

    def near(self, position: float, centre: float, radius: float) -> float:
        """The position within ``radius`` of ``centre`` that is nearest; a choice as it is.

        One step on the knob's grid is always allowed: a knob may have three values only.
        """
        if self.is_choice:
            return position
        low, high = self.info.minimum, self.info.maximum
        if not self._least and high > low:
            radius = max(radius, max(1, self.info.grid) / (high - low))
        return min(centre + radius, max(centre - radius, position))


def codes_of(dimensions: Sequence[Dimension], point: Point) -> Codes:
    """The values at a point."""
    return tuple(d.code(x) for d, x in zip(dimensions, point, strict=True))
