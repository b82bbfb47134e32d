# SPDX-License-Identifier: Apache-2.0
"""The record of a knob that an instance holds."""

from __future__ import annotations

from dataclasses import dataclass

from kmind.guard import Change
from kmind.knobs import Value

__all__ = ["Held"]


@dataclass
class Held:
    """A knob that holds something else than its baseline because of a recommendation.

    While it is ``measured`` it holds ``value`` and that of ``before`` in turn. ``away`` says that
    it is undone for the other's turn: a knob that disturbs others cannot be parked.
    """

    first: Change
    rec_id: int
    value: Value
    until: float
    hold_s: float
    last: Change
    measured: bool = False
    before: Held | None = None
    away: bool = False
