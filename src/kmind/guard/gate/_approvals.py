# SPDX-License-Identifier: Apache-2.0
"""Values that the owner of a gate may write."""

from __future__ import annotations

import time
from collections.abc import Mapping

from kmind.bpf import Map
from kmind.errors import BpfError
from kmind.guard.gate._layout import APPROVED, key_of
from kmind.knobs import Knob, Target, Value

__all__ = ["Approvals"]


class Approvals:
    """One row of the kernel's map for each knob: the value that may be written, and the baseline.

    Agents write rows as their verdicts are due, the owner by `approve` and `swap`. A row that
    the owner acts on is claimed: it ends when the knob is released, and a later one does not.
    ``baselines`` are those of what is guarded, by the map's key. Each call raises BpfError while
    nothing is guarded.
    """

    def __init__(self, baselines: Mapping[bytes, int]) -> None:
        self._baselines = baselines
        self._loaded: Map | None = None
        self._claimed: dict[bytes, bytes] = {}

    def bind(self, rows: Map | None) -> None:
        """Use the map of a loaded gate; None: of none."""
        self._loaded = rows

    def approve(self, knob: Knob, target: Target, value: Value) -> None:
        """Let this process write a value to what is guarded, in place of any approved before."""
        key = key_of(knob, target)
        row = APPROVED.pack(knob.encode(value), self._baselines[key], 0, 0, time.monotonic_ns())
        self._rows.update(key, row)
        self._claimed[key] = row

    def current(self, knob: Knob, target: Target) -> Value | None:
        """The value of something guarded that is approved now, or None."""
        row = self._rows.lookup(key_of(knob, target))
        return None if row is None else knob.decode(APPROVED.unpack(row)[0])

    def claim(self, knob: Knob, target: Target, value: Value) -> bool:
        """Act on an agent's approval of that value; false if it approved another one, or none."""
        key = key_of(knob, target)
        row = self._rows.lookup(key)
        if row is None or APPROVED.unpack(row)[0] != knob.encode(value):
            return False
        self._claimed[key] = row
        return True

    def swap(self, knob: Knob, target: Target, value: Value) -> bool:
        """Let this process write another value in place of the one that it acted on.

        False if another one was approved meanwhile: that is not to be overwritten.
        """
        key, number = key_of(knob, target), knob.encode(value)
        row = self._rows.lookup(key)
        if row != self._claimed.get(key):
            return False
        if number != self._baselines[key] and (row is None or APPROVED.unpack(row)[0] != number):
            self.approve(knob, target, value)
        return True

    def end(self, key: bytes) -> None:
        """End the approval that this process acted on. One that came later is left."""
        if self._rows.lookup(key) == self._claimed.pop(key, None):
            self._rows.delete(key)

    @property
    def _rows(self) -> Map:
        if self._loaded is None:
            raise BpfError("the gate guards nothing")
        return self._loaded
