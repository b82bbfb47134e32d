# SPDX-License-Identifier: Apache-2.0
"""The I/O latency extension: shows what predictions are worth, and advises a shorter queue.

All that decides is in the agent. Here its counters are put together: the confusion matrix, the
balanced accuracy beside that of the last latency, calibration, and drift. While the agent
publishes, one thing at a time is recommended: where slow requests met a much longer queue than
fast ones, a bound on the queue; where reads are slow beside writes, that writeback is throttled,
or a scheduler that puts reads first. Whether it helps the experiment says; until that ends
otherwise the value is renewed, for what helps takes away what it was recommended by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kmind.extension import ChangeEvent, Context, Extension, VerdictEvent

__all__ = ["IoLat", "balanced_accuracy"]

_QUEUE, _WRITEBACK, _SCHEDULER = "block.nr_requests", "block.wbt_lat_usec", "block.scheduler"
_BINS = 5
_DECAY_S = 30.0  # counts fade to a third in that time
_FEW = 200.0  # predictions: below that no drift is told
_DRIFT = 3.0  # times the odds of a slow request in the training, or as small a part of them
_SHARE = 0.05  # slow requests, of all, that are worth advice
_LONGER = 2.0  # the queue that slow ones met, against fast ones
_LEAST_S = 5.0  # of windows, before the first advice
_HOLD_S = 30.0
_EVERY_S = 10.0
_AGAIN_S = 600.0  # what did not help, or was refused, is not said again for so long
_WORSE = 3.0  # times as many reads are slow beside writes as without
_READS_FIRST = "mq-deadline"


class _Advice(NamedTuple):
    knob: str
    value: int | str
    reason: str
    evidence: dict[str, float | str]


class IoLat(Extension):
    """One disk's predictions."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._sums = np.zeros(len(context.features))
        self._abstaining = True
        self._predicted = 0.0
        self._drifted = False
        self._seen_s = 0.0
        self._advised_s: float | None = None
        self._held: _Advice | None = None
        self._not_before: dict[str, float] = {}  # by knob
        self._records = 0

    def on_windows(self, windows: npt.NDArray[np.void]) -> None:
        """Add the windows up; older ones fade."""
        columns = self.context.features
        for window in windows:
            seconds = (float(window["end_ns"]) - float(window["start_ns"])) / 1e9
            seconds = min(max(seconds, 0.0), 60.0)
            self._sums *= np.exp(-seconds / _DECAY_S)
            self._sums += np.minimum(window["value"][: len(self._sums)], 1e12)
            self._seen_s += seconds
        last = windows["value"][-1] if len(windows) else None
        if last is not None:
            self._tell(bool(last[columns["abstaining"]]))
            self._predicted = min(float(last[columns["predicted"]]) / 1000, 1.0)
        self._look_for_drift()
        self._advise()

    def on_records(self, records: npt.NDArray[np.void]) -> None:
        """Count them: they are for others."""
        self._records += len(records)

    def on_verdict(self, verdict: VerdictEvent) -> None:
        """Drop a recommendation that was refused."""
        if verdict.verdict not in ("approved", "renewed", "shadowed", "advised"):
            self._drop()

    def on_change(self, change: ChangeEvent) -> None:
        """Nor is a value that is no longer in place."""
        if change.kind not in ("applied", "kept"):
            self._drop()

    def on_mode(self, mode: str) -> None:
        """Begin anew."""
        self._held = None

    def status(self) -> Mapping[str, Any]:
        """Return the predictions and their accuracy."""
        sums = self._named()
        done = sums["fast"] + sums["slow"]
        shown: dict[str, Any] = {
            "state": "abstaining" if self._abstaining else "predicting",
            "slow_us": self.context.params["slow_us"],
            "slow_share": round(sums["slow"] / done, 4) if done >= 1 else 0.0,
            "predicted_share": round(self._predicted, 4),
            "records": self._records,
        }
        decided = self._decided(sums)
        if decided < 1:
            return shown | {"model": "none has decided lately"}
        own, last = _accuracies(sums)
        shown |= {
            "balanced_accuracy": round(own, 4),
            "last_latency_accuracy": round(last, 4),
            "confusion": {
                name: round(sums[name], 1)
                for name in ("fast_as_fast", "fast_as_slow", "slow_as_fast", "slow_as_slow")
            },
            "calibration": [
                round(sums[f"hits_{n}"] / sums[f"said_{n}"], 3) if sums[f"said_{n}"] >= 1 else None
                for n in range(_BINS)
            ],
        }
        if self.context.params["trained_slow"]:
            shown["drift"] = "drifted" if self._drifted else "none"
        return shown

    def _named(self) -> dict[str, float]:
        return {name: float(self._sums[at]) for name, at in self.context.features.items()}

    @staticmethod
    def _decided(sums: Mapping[str, float]) -> float:
        return sum(
            sums[name] for name in ("fast_as_fast", "fast_as_slow", "slow_as_fast", "slow_as_slow")
        )

    def _tell(self, abstaining: bool) -> None:
        if abstaining == self._abstaining:
            return
        self._abstaining = abstaining
        own, last = _accuracies(self._named())
        self.context.log(
            "abstains" if abstaining else "predictions are published",
            balanced_accuracy=round(own, 3),
            last_latency=round(last, 3),
        )

    def _look_for_drift(self) -> None:
        trained = int(self.context.params["trained_slow"]) / 1000
        if not trained:
            return
        sums = self._named()
        done = sums["fast"] + sums["slow"]
        if done < _FEW:
            return
        share = sums["slow"] / done
        drifted = not 1 / _DRIFT <= _odds(share) / _odds(trained) <= _DRIFT
        if drifted != self._drifted:
            self._drifted = drifted
            self.context.log(
                "slow requests are not as many as in the training: train again"
                if drifted
                else "slow requests are as many as in the training",
                share=round(share, 4),
                trained=trained,
            )

    def _drop(self) -> None:
        if self._held:
            self._not_before[self._held.knob] = self.context.now() + _AGAIN_S
        self._held = None

    def _advise(self) -> None:
        now = self.context.now()
        if self._advised_s is not None and now - self._advised_s < _EVERY_S:
            return
        advice = self._held or next(self._find(now), None)
        if advice is None:
            return
        self._advised_s = now
        self._held = advice
        self.context.recommend(
            advice.knob,
            advice.value,
            reason=advice.reason,
            evidence=advice.evidence,
            hold_s=_HOLD_S,
        )

    def _find(self, now: float) -> Iterator[_Advice]:
        if self._abstaining or self._seen_s < _LEAST_S:
            return
        sums = self._named()
        done = sums["fast"] + sums["slow"]
        if done < _FEW:
            return
        for advice in (*self._shorter_queue(sums, done), *self._reads_first(sums)):
            if now >= self._not_before.get(advice.knob, 0.0):
                yield advice

    def _shorter_queue(self, sums: Mapping[str, float], done: float) -> Iterator[_Advice]:
        info, share = self.context.knobs.get(_QUEUE), sums["slow"] / done
        if info is None or share < _SHARE or sums["fast"] < 1:
            return
        met, usual = sums["slow_depth"] / sums["slow"], sums["fast_depth"] / sums["fast"]
        value = max(1 << int(np.ceil(np.log2(max(2 * usual, 1)))), info.minimum)
        value += -value % max(info.grid, 1)
        if met < _LONGER * usual or value > info.maximum or value >= min(met, float(info.baseline)):
            return
        reason = "Slow requests met a much longer queue than fast ones."
        numbers = {"slow_met": round(met, 1), "fast_met": round(usual, 1)}
        yield _Advice(_QUEUE, value, reason, {"slow_share": round(share, 4), **numbers})

    def _reads_first(self, sums: Mapping[str, float]) -> Iterator[_Advice]:
        beside, alone = sums["reads_beside"], sums["reads"]
        if beside < _FEW or alone < _FEW:
            return
        share, usual = sums["slow_reads_beside"] / beside, sums["slow_reads"] / alone
        if share < _SHARE or share < _WORSE * usual:
            return
        numbers: dict[str, float | str] = {
            "slow_beside_writes": round(share, 4), "slow_without": round(usual, 4),
        }  # fmt: skip
        often = "Reads are slow more often while the disk has writes too"
        info, slow_us = self.context.knobs.get(_WRITEBACK), int(self.context.params["slow_us"])
        if info is not None:
            # 0 is off; above what is slow, throttling begins too late.
            value = min(max(slow_us, info.minimum), info.maximum)
            if int(info.baseline) == 0 or int(info.baseline) > value:
                reason = f"{often}: throttled at {value} us, writeback may leave them room."
                yield _Advice(_WRITEBACK, value, reason, numbers)
        info = self.context.knobs.get(_SCHEDULER)
        if info is not None and info.baseline == "none" and _READS_FIRST in info.choices:
            reason = f"{often}: {_READS_FIRST} gives reads to the disk first."
            yield _Advice(_SCHEDULER, _READS_FIRST, reason, numbers)


def balanced_accuracy(slow_right: float, slow: float, fast_right: float, fast: float) -> float:
    """The mean of both classes' shares that were right; 0 where one of them did not occur."""
    return (slow_right / slow + fast_right / fast) / 2 if slow > 0 and fast > 0 else 0.0


def _odds(share: float) -> float:
    share = min(max(share, 1e-4), 1 - 1e-4)
    return share / (1 - share)


def _accuracies(sums: Mapping[str, float]) -> tuple[float, float]:
    # The model's, and what the last latency would have had on the same requests.
    slow = sums["slow_as_slow"] + sums["slow_as_fast"]
    fast = sums["fast_as_slow"] + sums["fast_as_fast"]
    own = balanced_accuracy(sums["slow_as_slow"], slow, sums["fast_as_fast"], fast)
    right = max(fast - sums["last_fast_as_slow"], 0.0)
    return own, balanced_accuracy(sums["last_slow_as_slow"], slow, right, fast)
