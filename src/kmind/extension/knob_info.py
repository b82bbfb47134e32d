# SPDX-License-Identifier: Apache-2.0
"""A knob as an extension sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["KnobInfo"]


@dataclass(frozen=True)
class KnobInfo:
    """A knob that the instance may recommend values for.

    ``minimum``, ``maximum`` and ``grid`` (values are its multiples) are what policy
    and kernel allow, in ``unit``; ``choices`` are the names of an enum's values.
    ``baseline`` is the value at the instance's start. ``settle`` says whether a change
    works at once.
    """

    name: str
    id: int
    kind: Literal["int", "enum"]
    unit: str
    minimum: int
    maximum: int
    grid: int
    choices: tuple[str, ...]
    target_id: int
    baseline: int | str
    settle: Literal["instant", "slow"] = "instant"

    def encode(self, value: object) -> int:
        """The number that stands for ``value`` in the queue; ValueError if there is none.

        The agent checks range, step and rate; here only what no number can say.
        """
        if self.kind == "enum":
            if value not in self.choices:
                known = ", ".join(self.choices)
                raise ValueError(f"{self.name} has no choice {value!r}; it has {known}")
            return self.choices.index(str(value))
        number = value.item() if isinstance(value, np.generic) else value
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"{self.name} takes a number, not {number!r}")
        if not math.isfinite(number) or number != int(number):
            raise ValueError(f"{self.name} takes whole numbers, not {number}")
        if not -(1 << 63) <= number < 1 << 63:
            raise ValueError(f"{self.name}: {int(number)} does not fit in 64 bits")
        return int(number)

    def decode(self, number: int) -> int | str:
        """The value that a number of the queue stands for; the number if none does."""
        if self.kind == "enum" and 0 <= number < len(self.choices):
            return self.choices[number]
        return number
