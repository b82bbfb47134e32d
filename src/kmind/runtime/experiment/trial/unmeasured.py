# SPDX-License-Identifier: Apache-2.0
"""Values that stand without having been measured, as their module declares no outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kmind.agent.types import Action
from kmind.runtime.experiment.trial.publish import Publisher
from kmind.runtime.holds.grants import Granted
from kmind.runtime.holds.trial_holds import TrialHolds

__all__ = ["Unmeasured"]

_WHY = "not measured: the module declares no outcome"
_MOST = 256


class Unmeasured:
    """Sets approved values in ``changes``, and takes each of them down once, the first 256."""

    def __init__(self, holds: TrialHolds, publish: Publisher) -> None:
        self._holds = holds
        self._publish = publish
        self._noted: set[tuple[int, ...]] = set()

    def apply(
        self, granted: Granted, action: Action, reason: str, evidence: Mapping[str, Any]
    ) -> None:
        """Set what was approved. JournalError passes through."""
        if not self._holds.apply(granted, action, reason, evidence, _WHY):
            return
        key = (*granted.key, action.value)
        if key in self._noted or len(self._noted) >= _MOST:
            return
        self._noted.add(key)
        values = self._holds.baseline(granted), granted.knob.decode(action.value)
        self._publish.unmeasured(granted, values, action.id, _WHY, reason=reason, evidence=evidence)
