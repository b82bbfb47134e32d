# SPDX-License-Identifier: Apache-2.0
"""The approvals of a core object: what the gate lets its owner write."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from kmind.abi import layout
from kmind.agent.core.codec import Approved, grant_key
from kmind.agent.core.pins import Loaded

__all__ = ["Approvals"]


class Approvals:
    """The map from knob and target to what may be written; agents' verdicts write it too."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._rows = loaded.maps["approved"]

    def all(self) -> Mapping[tuple[int, int], Approved]:
        """Return the values that may be written now, by knob and target."""
        approvals = {}
        for key in self._rows.keys():  # noqa: SIM118
            if packed := self._rows.lookup(key):
                knob, target = np.frombuffer(key, layout.GRANT_KEY)[0].item()
                approvals[knob, target] = Approved.read(packed)
        return approvals

    def approve(
        self, knob: int, target: int, value: int, baseline: int, slot: int, rec_id: int = 0
    ) -> None:
        """Let the owner write a value, and write the baseline back; as an agent's verdict does."""
        words = np.zeros((), layout.APPROVED)
        words["value"], words["baseline"], words["instance"] = value, baseline, slot
        words["id"], words["time_ns"] = rec_id, time.monotonic_ns()
        self._rows.update(grant_key(knob, target), words.tobytes())

    def disapprove(self, knob: int, target: int, slot: int = 0) -> bool:
        """Let nothing through any more; false if that was so, or it is another slot's."""
        after = self._loaded.call("DISAPPROVE", slot=slot, knob=knob, target=target)
        return bool(after["result"])
