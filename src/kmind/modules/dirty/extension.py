# SPDX-License-Identifier: Apache-2.0
"""The dirty extension: lets writeback begin sooner where that spares writers waiting.

The kernel begins to write at B dirty pages, and makes writers wait from half-way
between B and its limit L (``dirty_freerun_ceiling``, mm/page-writeback.c). Between the
two lie (L - B) / 2 pages: at a rate of writing R and a disk that takes D, that lasts
(L - B) / 2 / (R - D) seconds. R is predicted, and a B recommended that makes it last
as long as the parameter ``lead``; where writers wait although it does, half of B.

That cannot always help. A smaller B also lowers the point where writers wait, by half as
much, so a burst that finds no dirty pages gains only if D is more than R / 2; and a load
that stays above D ends in waiting under any B. So a value is kept only while blocks of
equal work are measured to be waited for less, and let go of otherwise.
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
from .waiting import BLOCKS, Waiting, spared

__all__ = ["Dirty"]

_KNOB = "vm.dirty_background_ratio"
_PAGE = os.sysconf("SC_PAGE_SIZE")
_GIB = 1 << 30
_STEP_S = 1.0
_PEAKS = 60  # steps in which the highest prediction counts
_BLOCK_LEAST_GIB = 1 / 16
_WAIT_LEAST = 0.01  # seconds for each GiB: less is nothing to gain
_HOLD_S = 5.0
_RENEW_S = 2.0
_TRIAL_MOST_S = 300.0  # without enough written to judge by
_AGAIN_S = 60.0  # before a value is tried again; doubles each time that it did not help


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
        self._before = Waiting()
        self._under = Waiting()
        self._stands: int | None = None  # None: what stood at the start
        self._asked: int | None = None  # what is tried or kept
        self._applied_at: float | None = None
        self._why = ""
        self._kept = False
        self._renewed = 0.0
        self._not_before = 0.0
        self._pause = _AGAIN_S
        self._silent = False  # in this mode nothing comes of it
        self._yielded = False
        self._doing = "watching"

    # What comes in.

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
        """What is not let through is not tried again soon."""
        if verdict.verdict in ("approved", "renewed"):
            return
        self._asked = None
        self._kept = False
        if verdict.verdict in ("shadowed", "advised"):
            self._silent = True
            self._doing = f"{verdict.verdict}: {verdict.value} %"
        else:
            self._put_off()
            self._doing = f"refused: {verdict.verdict}"

    def on_change(self, change: ChangeEvent) -> None:
        """Waiting is counted anew from the moment that a value stands."""
        if change.kind == "yielded":
            self._yielded = True
            self._asked = None
            self._doing = "yielded: somebody else set the knob"
            return
        self._stands = int(change.value)
        self._before.restart(forget=False)
        self._under.restart(forget=True)
        if change.kind == "applied" and self._stands == self._asked:
            self._applied_at = self.context.now()
            return
        if self._asked is not None:
            self._put_off()
            self._doing = f"{change.kind}: {_KNOB} is {self._stands} again"
        self._asked = None
        self._kept = False

    def on_mode(self, mode: str) -> None:
        """Another mode may let through what this one did not."""
        self._silent = False
        self._asked = None
        self._kept = False

    def status(self) -> Mapping[str, Any]:
        """What is written, what is foreseen, and what is being done about it."""
        return {
            "doing": self._doing,
            "written_mb_per_s": _mb(self._rates[-1] if self._rates else 0.0),
            "predicted_mb_per_s": _mb(self._peaks[-1] if self._peaks else 0.0),
            "skill": round(max(self._holt.skill, -9.0), 2),
            "disk_mb_per_s": _mb(self._disk),
            "waited_s_per_gib": round(self._before.mean, 3),
            "waited_s_per_gib_under": round(self._under.mean, 3),
        }

    # What goes out.

    def _gauge(self, window: Any, name: str) -> float:
        return float(window["value"][self.context.features[name]])

    def _sum(self, name: str) -> float:
        return float(self._sums[self.context.features[name]])

    @property
    def _disk(self) -> float:
        # The kernel's estimate falls while little is written, though the disk is as fast.
        return max(self._disks, default=0.0)

    @property
    def _now_set(self) -> int:
        return self._baseline if self._stands is None else self._stands

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
        block = max(self._limit / 2 * _PAGE / _GIB, _BLOCK_LEAST_GIB)
        gib, waited = self._sum("dirtied_pages") * _PAGE / _GIB, self._sum("pause_ns") / 1e9
        held = self._asked is not None and self._now_set == self._asked
        if held or self._now_set == self._baseline:
            (self._under if held else self._before).learn_one(gib, waited, block)
        if self._silent or self._yielded:
            return
        if self._asked is None:
            self._consider()
        else:
            self._judge()

    def _consider(self) -> None:
        if self.context.now() < self._not_before or self._now_set != self._baseline:
            return
        plan = self._plan()
        if isinstance(plan, str):
            self._doing = plan
            return
        rate = max(self._peaks)
        self._asked = plan
        self._applied_at = None
        self._doing = f"trying {plan} % instead of {self._now_set} %"
        self._why = (
            f"Writers wait {self._before.mean:.2f} s for each GiB; at {plan} % instead of "
            f"{self._now_set} % writeback begins {self.context.params['lead']:.1f} s before "
            f"they would have to, at the rate that is predicted."
        )
        self._recommend(
            predicted_mb_per_s=_mb(rate),
            skill=round(max(self._holt.skill, -9.0), 2),
            disk_mb_per_s=_mb(self._disk),
            lead_s=round(self._lead(rate), 2),
            waited_s_per_gib=round(self._before.mean, 3),
        )

    def _plan(self) -> int | str:
        # The value to try, or why there is none.
        info = self.context.knobs[_KNOB]
        if not (self._background and self._limit and self._disk and self._now_set):
            return "waiting for the kernel's thresholds and the disk's speed"
        if not self._before.enough:
            return f"learning how long writers wait: {len(self._before.costs)} of {BLOCKS} blocks"
        if self._before.mean < _WAIT_LEAST:
            return "nothing to gain: writers are not made to wait"
        rate = max(self._peaks)
        if rate <= self._disk:
            return "nothing to try: the disk takes as much as is predicted to be written"
        pages = self._limit - 2 * float(self.context.params["lead"]) * (rate - self._disk)
        value = min(int(pages / (self._background / self._now_set)), self._now_set // 2)
        value = min(max(value, info.minimum), info.maximum) // info.grid * info.grid
        if value < info.minimum or value >= self._now_set:
            return "nothing to try: writeback cannot begin sooner"
        return value

    def _lead(self, rate: float) -> float:
        # Seconds from the begin of writeback to the first wait, at that rate.
        return (self._limit - self._background) / 2 / max(rate - self._disk, 1.0)

    def _judge(self) -> None:
        now = self.context.now()
        if self._applied_at is None:
            return  # no verdict yet
        held = now - self._applied_at
        least = float(self.context.params["min_gain"])
        if self._kept and held >= float(self.context.params["recheck"]):
            self._before.restart(forget=True)
            self._let_go("It is time to see whether that still helps", again=False)
        elif not self._under.enough:
            if held >= _TRIAL_MOST_S and not self._kept:
                self._let_go("Too little is written to judge by", again=True)
            else:
                self._renew()
        elif (share := spared(self._before.costs, self._under.costs)) >= least:
            (self._renew if self._kept else lambda: self._keep(share))()
        elif self._under.full or 1 - self._under.mean / self._before.mean < least:
            self._let_go(f"{self._asked} % does not spare writers waiting", again=True)
        else:
            self._renew()  # better so far, but it may be chance

    def _keep(self, share: float) -> None:
        self._kept = True
        self._pause = _AGAIN_S
        self._doing = f"keeping {self._asked} %: {share:.0%} less waiting"
        self._why = (
            f"At {self._asked} % writers wait {self._under.mean:.2f} s for each GiB instead "
            f"of {self._before.mean:.2f} s, so it is kept for as long as that is so."
        )
        self._recommend(spared=round(share, 3), blocks=len(self._under.costs))

    def _renew(self) -> None:
        if self.context.now() - self._renewed >= _RENEW_S:
            self._recommend(waited_s_per_gib=round(self._under.mean, 3))

    def _recommend(self, **evidence: float | int) -> None:
        self._renewed = self.context.now()
        self.context.recommend(
            _KNOB, self._asked, reason=self._why, evidence=evidence, hold_s=_HOLD_S
        )

    def _let_go(self, why: str, *, again: bool) -> None:
        before, under = self._before.mean, self._under.mean
        self.context.log(why, value=self._asked, before=round(before, 3), under=round(under, 3))
        self._doing = f"let go of {self._asked} %: {why[0].lower()}{why[1:]}"
        self._asked = None
        self._kept = False
        if again:
            self._put_off()
        self.context.recommend(
            _KNOB,
            self._baseline,
            reason=f"{why}, so {self._baseline} % is put back.",
            evidence={"waited_s_per_gib": round(under, 3), "waited_before": round(before, 3)},
            hold_s=_HOLD_S,
        )

    def _put_off(self) -> None:
        self._not_before = self.context.now() + self._pause
        self._pause *= 2


def _mb(pages: float) -> float:
    return round(pages * _PAGE / 1e6, 1)
