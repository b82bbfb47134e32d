# SPDX-License-Identifier: Apache-2.0
"""The dirty extension: proposes earlier writeback where that may spare writers waiting.

The kernel begins to write at B dirty pages, and makes writers wait from half-way
between B and its limit L (``dirty_freerun_ceiling``, mm/page-writeback.c). Between the
two lie (L - B) / 2 pages: at a rate of writing R and a disk that takes D, that lasts
(L - B) / 2 / (R - D) seconds. R is predicted, and a B proposed that makes it last
as long as the parameter ``lead``; where writers wait although it does, half of B.

That cannot always help. A smaller B also lowers the point where writers wait, by half as
much, so a burst that finds no dirty pages gains only if D is more than R / 2; and a load
that stays above D ends in waiting under any B. So the owner measures it, and what it does
not keep is proposed again after ever longer pauses.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.extension import ChangeEvent, Context, Extension, VerdictEvent

from .holt import Holt
from .waiting import BLOCKS, Waiting

__all__ = ["Dirty"]

_KNOB = "vm.dirty_background_ratio"
_PAGE = os.sysconf("SC_PAGE_SIZE")
_GIB = 1 << 30
_STEP_S = 1.0
_PEAKS = 60  # steps in which the highest prediction counts
_BLOCK_LEAST_GIB = 1 / 16
_WAIT_LEAST = 0.01  # seconds for each GiB: less is nothing to gain
_HOLD_S = 15.0
_RENEW_S = 3.0
_AGAIN_S = 600.0  # before what did not help is proposed again; then twice as long, up to a day
_LONGEST_S = 86400.0
_SOON_S = 60.0  # before what was cut off without a verdict, as by a load that ended, goes on


class Dirty(Extension):
    """The system's ``dirty_background_ratio``."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._sums = np.zeros(len(context.features))
        self._from_s = 0.0
        self._holt = Holt()
        self._rates: deque[float] = deque(maxlen=_PEAKS)
        self._peaks: deque[float] = deque(maxlen=_PEAKS)
        self._background = self._limit = 0.0  # pages
        self._disks: deque[float] = deque(maxlen=_PEAKS)  # pages/s
        self._waiting = Waiting()  # while the baseline stands
        self._asked: int | None = None  # what is proposed, measured or kept
        self._evidence: dict[str, float] = {}
        self._reason = ""
        self._renewed = 0.0
        self._not_before = 0.0
        self._pause = _AGAIN_S
        self._silent = False  # in this mode nothing comes of it
        self._yielded = False
        self._doing = "watching"

    # Inputs

    def on_windows(self, windows: npt.NDArray[np.void]) -> None:
        """Add windows up to steps of a second, and decide at the end of each."""
        for window in windows:
            start, end = float(window["start_ns"]) / 1e9, float(window["end_ns"]) / 1e9
            if not self._from_s or end < self._from_s:
                self._from_s = start
                self._sums[:] = 0
            self._sums += window["value"][: len(self._sums)]
            self._background = self._gauge(window, "background_pages")
            self._limit = self._gauge(window, "limit_pages")
            if end - self._from_s >= _STEP_S:
                self._disks.append(self._gauge(window, "disk_pages_per_s"))
                self._close_step(end - self._from_s)
                self._sums[:] = 0
                self._from_s = end

    def on_verdict(self, verdict: VerdictEvent) -> None:
        """Wait before the next request if this one was refused."""
        if verdict.verdict in ("approved", "renewed"):
            return
        if verdict.verdict in ("shadowed", "advised"):
            self._asked = None
            self._silent = True
            self._doing = f"{verdict.verdict}: {verdict.value} %"
        else:
            self._give_up(f"refused: {verdict.verdict}")

    def on_change(self, change: ChangeEvent) -> None:
        """Keep proposing a value that the owner keeps, and give up one that it puts back."""
        if change.kind == "yielded":
            self._yielded = True
            self._asked = None
            self._doing = "yielded: another writer set the knob"
        elif change.kind in ("applied", "kept") and change.value == self._asked:
            self._pause = _AGAIN_S
            self._doing = f"keeping {self._asked} %"
        elif self._asked is not None:
            why = f"{change.kind}, {change.outcome}" if change.outcome else change.kind
            self._give_up(f"let go of {self._asked} %: {why}", cut=change.outcome == "aborted")

    def on_mode(self, mode: str) -> None:
        """Another mode may let through what this one did not."""
        self._silent = False
        self._asked = None
        self._waiting.restart()

    def status(self) -> Mapping[str, Any]:
        """Return the write rate, its forecast, and the current action."""
        return {
            "doing": self._doing,
            "written_mb_per_s": _mb(self._rates[-1] if self._rates else 0.0),
            "predicted_mb_per_s": _mb(self._peaks[-1] if self._peaks else 0.0),
            "skill": round(max(self._holt.skill, -9.0), 2),
            "disk_mb_per_s": _mb(self._disk),
            "waited_s_per_gib": round(self._waiting.mean, 3),
        }

    # Outputs

    def _gauge(self, window: Any, name: str) -> float:
        return float(window["value"][self.context.features[name]])

    def _sum(self, name: str) -> float:
        return float(self._sums[self.context.features[name]])

    @property
    def _disk(self) -> float:
        # The kernel's estimate falls while little is written, though the disk is as fast.
        return max(self._disks, default=0.0)

    @property
    def _baseline(self) -> int:
        return int(self.context.knobs[_KNOB].baseline)

    def _close_step(self, seconds: float) -> None:
        rate = self._sum("dirtied_pages") / seconds
        self._rates.append(rate)
        self._holt.learn_one(rate)
        # A trend does not go on for ever: twice what was seen is as far as it is believed.
        ahead = self._holt.predict(float(self.context.params["lead"]) / _STEP_S)
        self._peaks.append(min(ahead, 2 * max(self._rates)))
        if _KNOB not in self.context.knobs:
            self._doing = f"watching only: {_KNOB} is not granted"
            return
        if self._silent or self._yielded:
            return
        if self._asked is not None:
            self._renew()
            return
        block = max(self._limit / 2 * _PAGE / _GIB, _BLOCK_LEAST_GIB)
        gib, waited = self._sum("dirtied_pages") * _PAGE / _GIB, self._sum("pause_ns") / 1e9
        self._waiting.learn_one(gib, waited, block)
        if self.context.now() >= self._not_before:
            self._consider()

    def _consider(self) -> None:
        plan = self._plan()
        if isinstance(plan, str):
            self._doing = plan
            return
        rate = max(self._peaks)
        self._asked = plan
        self._doing = f"proposing {plan} % instead of {self._baseline} %"
        self._reason = (
            f"Writers wait {self._waiting.mean:.2f} s for each GiB; at {plan} % instead of "
            f"{self._baseline} % writeback begins {self.context.params['lead']:.1f} s before "
            f"they would have to, at the rate that is predicted."
        )
        self._evidence = {
            "predicted_mb_per_s": _mb(rate),
            "skill": round(max(self._holt.skill, -9.0), 2),
            "disk_mb_per_s": _mb(self._disk),
            "lead_s": round(self._lead(rate), 2),
            "waited_s_per_gib": round(self._waiting.mean, 3),
        }
        self._recommend()

    def _plan(self) -> int | str:
        # The value to try, or why there is none.
        info = self.context.knobs[_KNOB]
        if not (self._background and self._limit and self._disk and self._baseline):
            return "waiting for the kernel's thresholds and the disk's speed"
        if not self._waiting.enough:
            return f"learning how long writers wait: {len(self._waiting.costs)} of {BLOCKS} blocks"
        if self._waiting.mean < _WAIT_LEAST:
            return "nothing to gain: writers are not throttled"
        rate = max(self._peaks)
        if rate <= self._disk:
            return "nothing to try: the disk is fast enough for the predicted writes"
        pages = self._limit - 2 * float(self.context.params["lead"]) * (rate - self._disk)
        value = min(int(pages / (self._background / self._baseline)), self._baseline // 2)
        value = min(max(value, info.minimum), info.maximum) // info.grid * info.grid
        if value < info.minimum or value >= self._baseline:
            return "nothing to try: writeback cannot begin earlier"
        return value

    def _lead(self, rate: float) -> float:
        # Seconds from the begin of writeback to the first wait, at that rate.
        return (self._limit - self._background) / 2 / max(rate - self._disk, 1.0)

    def _renew(self) -> None:
        if self.context.now() - self._renewed >= _RENEW_S:
            self._recommend()

    def _recommend(self) -> None:
        self._renewed = self.context.now()
        self.context.recommend(
            _KNOB, self._asked, reason=self._reason, evidence=self._evidence, hold_s=_HOLD_S
        )

    def _give_up(self, doing: str, *, cut: bool = False) -> None:
        self._asked = None
        self._doing = doing
        self._waiting.restart()
        self._not_before = self.context.now() + (_SOON_S if cut else self._pause)
        if not cut:
            self._pause = min(2 * self._pause, _LONGEST_S)


def _mb(pages: float) -> float:
    return round(pages * _PAGE / 1e6, 1)
