# SPDX-License-Identifier: Apache-2.0
"""The error that all experiments of a day on one knob may make together.

Online fallback (Tian and Ramdas, "Online control of the familywise error rate", Statistical
Methods in Medical Research 2021; after the fallback procedure of Wiens 2003): the n-th
experiment gets the share 1 / (n (n + 1)) of the budget, which adds up to 1, and what an
experiment had that ended in a gain goes on to the next. Then the probability that any value that
is not better is ever taken for a gain is ``DAY_ALPHA`` at most, however the experiments hang
together and whoever chooses them with all earlier outcomes in view.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DAY_ALPHA", "LEAST_LEVEL", "Budget"]

DAY_ALPHA = 0.05
"""The probability that on one knob, in one day, anything is kept that is not better."""

LEAST_LEVEL = 1e-5
"""An experiment at a smaller error is not begun: it would take too long to find anything."""


@dataclass(frozen=True)
class Budget:
    """Error budget left after ``tests`` experiments, which handed on the level ``carried``."""

    tests: int = 0
    carried: float = 0.0

    @property
    def level(self) -> float:
        """The error that the next experiment may make."""
        number = self.tests + 1
        return DAY_ALPHA / (number * (number + 1)) + self.carried

    @property
    def used_up(self) -> bool:
        """True if the next experiment would get too small a level."""
        return self.level < LEAST_LEVEL

    def drawn(self) -> Budget:
        """Return the budget after the next experiment has taken its ``level``."""
        return Budget(self.tests + 1)

    def handed_on(self, level: float) -> Budget:
        """Return the budget after an experiment that gained or saw nothing hands its level on."""
        return Budget(self.tests, min(self.carried + level, DAY_ALPHA))
