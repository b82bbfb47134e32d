# SPDX-License-Identifier: Apache-2.0
"""Limit how long unconfirmed settings stay in place, and confirmed ones until a recheck.

A setting is all that an instance holds: the values of its knobs that differ from the baselines.
Every clock here is the owner's, and follows the knobs' values, not the recommendations.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field

from kmind.evidence import Better
from kmind.knobs import Value

__all__ = [
    "DEBT_S",
    "START_S",
    "Collapse",
    "Exploring",
    "Proof",
    "Proofs",
    "Setting",
    "level_class",
]

Setting = frozenset[tuple[tuple[int, int], Value]]
"""Values by knob and target; empty where the baseline stands."""

START_S = 5.0
"""An unconfirmed setting is begun only with so much time left, in seconds."""

DEBT_S = 5.0
"""One that stands is put back when so much more than there was has been used, in seconds."""

_MOST_S = 600.0
_REFILL = 0.2  # seconds for each in which nothing unconfirmed stands: a sixth of the time at most
_STRETCH_S = 60.0
_LONGEST_S = 3600.0
_LEVELS = math.log(1.5)  # classes of a level: so many times another may be the same load's
_MOST_HALVED = 2
_FAR, _PATIENCE, _RECENT = 3.0, 2, 8
_MOST = 256


class Collapse:
    """Detect that the objective is far worse under an unconfirmed setting than before.

    Two readings in a row that are three times worse than the median of the latest eight under the
    baseline, or under a confirmed setting, are a collapse: the setting is dropped at once.
    """

    def __init__(self, better: Better) -> None:
        self._better = better
        self._usual: deque[float] = deque(maxlen=_RECENT)
        self._bad = 0

    def learn_one(self, value: float | None, *, unconfirmed: bool) -> bool:
        """Take a reading under the current setting, None for a gap; whether it has collapsed."""
        if not unconfirmed:
            self._bad = 0
            if value is not None:
                self._usual.append(value)
            return False
        if value is None or len(self._usual) < _RECENT:
            return False
        usual = statistics.median(self._usual)
        worse = value * _FAR < usual if self._better == "higher" else value > usual * _FAR
        self._bad = self._bad + 1 if worse else 0
        return self._bad >= _PATIENCE


class Exploring:
    """The time that unconfirmed settings may stand.

    ``left_s`` is what is left: ten minutes to begin with, and in the long run a sixth of the time.
    ``stretch_s`` is for how long none but unconfirmed ones have stood, ``longest_s`` how long that
    may last. ``longest_s`` is a minute, or four blocks where those are longer.
    """

    def __init__(self) -> None:
        self.longest_s = _STRETCH_S
        self.left_s = _MOST_S
        self.stretch_s = 0.0
        self._stood: dict[Setting, float] = {}
        self._at: float | None = None
        self._unconfirmed: Setting = frozenset()

    def begin(self, block_s: float) -> None:
        """Use blocks of another length; no used time is given back."""
        self.longest_s = max(_STRETCH_S, 4 * block_s)

    def tick(self, now: float, unconfirmed: Setting) -> None:
        """Count the time since the last tick; ``unconfirmed`` stands from now on, empty if none."""
        passed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        if self._unconfirmed:
            self.left_s -= passed
            self.stretch_s += passed
            stood = self._stood.get(self._unconfirmed, 0.0)
            self._stood[self._unconfirmed] = stood + passed
        else:
            self.left_s = min(max(_MOST_S, 2 * self.longest_s), self.left_s + _REFILL * passed)
        if not unconfirmed:
            self.stretch_s = 0.0
            self._stood.clear()
        self._unconfirmed = unconfirmed

    def dominates(self, setting: Setting) -> bool:
        """True if no other setting was in place for longer in this stretch."""
        return self._stood.get(setting, 0.0) >= max(self._stood.values(), default=0.0)

    @property
    def wait_s(self) -> float:
        """Seconds until something unconfirmed may begin, if nothing is until then; 0 if now."""
        return max(0.0, START_S - self.left_s) / _REFILL

    @property
    def used_up(self) -> bool:
        """True if the unconfirmed setting has no time left."""
        return self.left_s <= -DEBT_S


@dataclass
class Proof:
    """A setting that was confirmed: how long it has stood since, and how long it may, in seconds.

    ``number`` is that of the experiment; ``levels`` are the classes that the metric was in under
    the setting when it was measured: another load mostly has another one.
    """

    number: int
    pause_s: float
    stood_s: float = 0.0
    left_at: float | None = None
    levels: set[int] = field(default_factory=set)

    @property
    def owed(self) -> bool:
        """True if a new measurement is due."""
        return self.stood_s >= self.pause_s


class Proofs:
    """The confirmed settings of one instance.

    One may stand for ``first_s`` until it is measured again, then for twice as long, up to an
    hour; for half of it if it was refuted before, for a quarter if twice. One that comes back
    after ``first_s`` elsewhere has ``first_s`` again: the load may be another one.
    """

    def __init__(self, first_s: float) -> None:
        self.first_s = first_s
        self._proofs: dict[Setting, Proof] = {}
        self._refuted: dict[Setting, int] = {}
        self._at: float | None = None
        self._current: Setting = frozenset()

    def get(self, setting: Setting) -> Proof | None:
        """Return the proof of a setting, if there is one."""
        return self._proofs.get(setting)

    def within(self, setting: Setting) -> bool:
        """True if the setting is part of a confirmed one: knobs move one after the other."""
        return any(setting < proven for proven, proof in self._proofs.items() if not proof.owed)

    def tick(self, now: float, stands: Setting) -> None:
        """Credit the time since the last call to the setting in place until now.

        ``stands`` is next.
        """
        passed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        if old := self._proofs.get(self._current):
            old.stood_s += passed
            if stands != self._current:
                old.left_at = now
        new = self._proofs.get(stands) if stands != self._current else None
        if new and new.left_at is not None and now - new.left_at > self.first_s:
            new.pause_s = min(new.pause_s, self.first_s)
        self._current = stands

    def confirmed(self, setting: Setting, number: int, level: float | None) -> None:
        """It was measured to be better than the baseline."""
        known = self._proofs.pop(setting, None)
        if known is None:
            known = Proof(number, self.first_s / 2 ** self._refuted.get(setting, 0) / 2)
        proof = Proof(number, min(2 * known.pause_s, _LONGEST_S), levels=known.levels)
        proof.levels |= {level_class(level)} if level else set()
        self.remember(setting, proof)

    def remember(self, setting: Setting, proof: Proof) -> None:
        """Take what is known of it; of more than 256 the oldest goes."""
        if len(self._proofs) >= _MOST:
            del self._proofs[next(iter(self._proofs))]
        self._proofs[setting] = proof

    def refuted(self, setting: Setting) -> None:
        """It was measured again, and goes."""
        if self._proofs.pop(setting, None) is None:
            return
        times = self._refuted.pop(setting, 0) + 1
        if len(self._refuted) >= _MOST:
            del self._refuted[next(iter(self._refuted))]
        self._refuted[setting] = min(times, _MOST_HALVED)

    def was_refuted(self, setting: Setting) -> bool:
        """True if a new measurement refuted the setting."""
        return setting in self._refuted

    def under(self, setting: Setting, level: float) -> None:
        """The metric is so much under a setting that stands: a new level asks for a measurement."""
        proof = self._proofs.get(setting)
        if (
            proof
            and proof.levels
            and min(abs(level_class(level) - other) for other in proof.levels) > 1
        ):
            proof.pause_s = min(proof.pause_s, self.first_s)

    def clear(self) -> None:
        """Forget all: nothing stands in this mode."""
        self._proofs.clear()


def level_class(level: float) -> int:
    """Return the class of a metric's level; of neighbours one may be the other's load."""
    return math.floor(math.log(level) / _LEVELS)
