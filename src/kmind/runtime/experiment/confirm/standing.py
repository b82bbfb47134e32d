# SPDX-License-Identifier: Apache-2.0
"""The setting that an instance holds: since when it stands, and whether another one may."""

from __future__ import annotations

import math
from collections.abc import Callable

from kmind.extension.manifest.outcome import EvidencePart
from kmind.knobs import Value
from kmind.runtime.experiment.case import Pending
from kmind.runtime.experiment.exploring import START_S, Exploring, Proofs, Setting
from kmind.runtime.holds.trial_holds import TrialHolds

__all__ = ["Standing"]


class Standing:
    """The setting that ``changes`` hold; ``now`` is in seconds.

    ``exploring`` bounds the time of unconfirmed settings, and ``proofs`` has the confirmed ones.
    ``since`` is when the setting of now began, or the latest turn of an experiment.
    """

    def __init__(self, holds: TrialHolds, now: Callable[[], float]) -> None:
        self.exploring = Exploring()
        self.proofs = Proofs(math.inf)
        self.since = now()
        self._holds = holds
        self._now = now
        self._latest: Setting = frozenset()

    def begin(self, plan: EvidencePart) -> None:
        """Use another plan: nothing is confirmed, and no used time is given back."""
        self.proofs = Proofs(plan.recheck_s)
        self.exploring.begin(plan.block_s + plan.wash_out_s)

    @property
    def setting(self) -> Setting:
        """The setting of now."""
        return frozenset(
            (granted.key, value)
            for granted in self._holds.held_knobs()
            if (value := self._holds.held_value(granted)) != self._holds.baseline(granted)
        )

    @property
    def latest(self) -> Setting:
        """The setting at the last tick."""
        return self._latest

    def tick(self, *, measuring: bool, tried: bool) -> None:
        """Count the time since the last tick.

        ``measuring`` says that an experiment is under way, ``tried`` that its candidate stands just
        now, which was not confirmed before.
        """
        now, setting = self._now(), self.setting
        if measuring or setting != self._latest:
            self._latest, self.since = setting, now
        self.proofs.tick(now, frozenset() if measuring else setting)
        confirmed = not tried if measuring else self.is_confirmed(setting)
        self.exploring.tick(now, frozenset() if confirmed else setting)

    def is_confirmed(self, setting: Setting) -> bool:
        """True if a setting was measured, and need not be again yet."""
        proof = self.proofs.get(setting)
        return proof is not None and not proof.owed

    def after(self, pending: Pending) -> Setting:
        """Return the setting that there would be with an approved value."""
        granted = pending.granted
        rest = frozenset(item for item in self.setting if item[0] != granted.key)
        value = granted.knob.decode(pending.action.value)
        return rest if value == self._holds.baseline(granted) else rest | {(granted.key, value)}

    def is_retreat(self, after: Setting) -> bool:
        """True if a setting is on the way from that of now to the baseline."""
        return not after or after < self.setting

    def allows(self, after: Setting) -> bool:
        """True if a setting may take the place of that of now."""
        if self.is_retreat(after) or self.is_confirmed(after):
            return True
        if self.proofs.within(after):
            return not self.exploring.used_up
        return self.exploring.left_s >= START_S

    def values(self, setting: Setting) -> tuple[dict[str, Value], dict[str, Value]] | None:
        """Return its baselines and values by knob; None where one is no longer granted."""
        old: dict[str, Value] = {}
        new: dict[str, Value] = {}
        for key, value in setting:
            granted = self._holds.knobs.get(*key)
            if granted is None:
                return None
            old[granted.knob.name], new[granted.knob.name] = self._holds.baseline(granted), value
        return old, new
