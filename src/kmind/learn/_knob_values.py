# SPDX-License-Identifier: Apache-2.0
"""The knobs of an instance that is recorded: what they hold, and since when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.errors import KmindError
from kmind.knobs import Knob, Target
from kmind.learn.schema import KNOB_UNKNOWN

__all__ = ["KnobValues"]


class KnobValues:
    """Values of knobs, by number, in the order that they are given in. Call `read` often."""

    def __init__(self, knobs: Sequence[tuple[Knob, Target]], now_ns: Callable[[], int]) -> None:
        self._knobs = knobs
        self._now_ns = now_ns
        self._values = np.full(len(knobs), KNOB_UNKNOWN, np.int64)
        self._since_ns = np.full(len(knobs), np.iinfo(np.int64).max, np.int64)

    def read(self) -> None:
        """Read the knobs. One that changed is known from this moment on."""
        for n, (knob, target) in enumerate(self._knobs):
            try:
                value = knob.encode(knob.read(target))
            except KmindError:
                value = int(KNOB_UNKNOWN)
            if value != self._values[n]:
                self._values[n], self._since_ns[n] = value, self._now_ns()

    def of_windows(self, starts_ns: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Values at windows that have ended, a row each; unknown where one changed after the start.

        ``starts_ns`` is when the windows began.
        """
        stood = starts_ns.astype(np.int64)[:, None] >= self._since_ns[None, :]
        return np.where(stood, self._values, KNOB_UNKNOWN)
