# SPDX-License-Identifier: Apache-2.0
"""The slow I/O extension: suspects a disk whose requests take longer for good.

Disks do not only fail, they also go on at a fraction of their speed (H. Gunawi and
others, "Fail-Slow at Scale", FAST 2018). The agent counts, for each request, how long
it took against the median of its own class, so that another mix of requests or a
longer queue is no change. Windows are put together to rounds; the median ratio of
each round goes to a `ShiftDetector`; a shift is handed over as a finding. Nothing is recommended:
this module only watches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.extension import Context, Extension

from .shift import ShiftDetector

__all__ = ["SlowIo", "median_ratio"]

_BINS = 12
# Edges between the bins of the agent, as powers of two; it counts in 1/64.
_EDGES = np.log2(np.array([16, 32, 45, 54, 64, 76, 91, 128, 181, 256, 512]) / 64)
_BOUNDS = np.concatenate([[_EDGES[0] - 1], _EDGES, [_EDGES[-1] + 1]])
_ROUND_S = 1.0
_ROUND_LEAST = 32  # requests that were compared
_ROUND_MOST_S = 60.0  # what trickles in for longer than that says little
_FEW_OUTLIERS = 0.02  # of all requests; each is 16 deviations above what is usual, or as set
_KEPT_S = 60.0  # how long the worst request is shown


class SlowIo(Extension):
    """One disk's health."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._shift = ShiftDetector(math.log2(float(context.params["min_ratio"])))
        self._sums = np.zeros(len(context.features))
        self._from_s = 0.0  # of the round that is being filled
        self._ratio = 1.0
        self._since: float | None = None  # when the disk was first suspected
        self._requests = 0.0  # compared since then
        self._errors = 0.0  # since then
        self._outliers = 0.0
        self._worst: tuple[float, float, str] | None = None  # until, us, in words
        self._shown: dict[str, float] = {}

    def on_windows(self, windows: npt.NDArray[np.void]) -> None:
        """Fill the round; judge when it is full."""
        for window in windows:
            start, end = float(window["start_ns"]) / 1e9, float(window["end_ns"]) / 1e9
            if not self._sums.any():
                self._from_s = start
            self._sums += window["value"][: len(self._sums)]
            compared = self._ratios.sum()
            if end - self._from_s >= _ROUND_S and compared >= _ROUND_LEAST:
                self._close_round(end)
            elif end - self._from_s >= _ROUND_MOST_S or end < self._from_s:
                self._show(end)
                self._sums[:] = 0

    def on_records(self, records: npt.NDArray[np.void]) -> None:
        """Keep the worst outlier, to show it."""
        took = records["value"] >> np.uint64(32)
        worst = records[int(took.argmax())] if len(records) else None
        if worst is None:
            return
        now, us = self.context.now(), float(took.max())
        if self._worst is None or now >= self._worst[0] or us >= self._worst[1]:
            usual = int(worst["value"]) & 0xFFFFFFFF
            words = f"{_in_words(int(worst['subject']))}: {us:,.0f} us, usual are {usual:,}"
            self._worst = now + _KEPT_S, us, words

    def status(self) -> Mapping[str, Any]:
        """Return the disk's health, and the figures behind it."""
        shift = self._shift
        shown: dict[str, Any] = {"health": self._health(), "ratio": round(self._ratio, 3)}
        if shift.baseline.learnt:
            shown |= {
                "usual_ratio": round(2**shift.baseline.location_, 3),
                "usual_spread": round(2**shift.baseline.scale_ - 1, 3),
                "recent_ratio": round(2**shift.rise, 3),
                "score": round(shift.scores.sum_, 1),
                "score_limit": shift.scores.limit,
            }
        if self._since is not None:
            shown |= {
                "suspected_for_s": round(self.context.now() - self._since, 1),
                "requests_since": round(self._requests, 1),
            }
        if self._worst is not None and self.context.now() < self._worst[0]:
            shown["worst"] = self._worst[2]
        return shown | self._shown

    @property
    def _ratios(self) -> npt.NDArray[np.float64]:
        first = self.context.features["ratio_00"]
        return self._sums[first : first + _BINS]

    def _health(self) -> str:
        if self._shift.shifted:
            return f"fail-slow suspected: requests take {2**self._shift.rise:.1f} times as long"
        return "normal" if self._shift.baseline.learnt else "learning the normal latencies"

    def _close_round(self, end: float) -> None:
        level = median_ratio(self._ratios)
        self._ratio = 2**level
        was = self._shift.shifted
        self._shift.learn_one(level)
        if self._shift.shifted != was:
            self._since = self.context.now() if self._shift.shifted else None
            self._requests = self._errors = self._outliers = 0.0
        self._requests += float(self._ratios.sum())
        self._errors += self._sum("errors")
        self._outliers += self._sum("outliers")
        if self._shift.shifted:
            self._hand_over()
        else:
            self.context.clear_finding("fail_slow")
        self._show(end)
        self._sums[:] = 0

    def _sum(self, feature: str) -> float:
        return float(self._sums[self.context.features[feature]])

    def _hand_over(self) -> None:
        ratio = 2**self._shift.rise
        causes: dict[str, dict[str, object]] = {}
        if self._errors:
            causes["The medium, the cable or the controller fails: requests end in errors."] = {
                "errors": self._errors
            }
        if self._outliers > _FEW_OUTLIERS * self._requests:
            causes["Single requests are tried again and again inside the disk."] = {
                "outliers": self._outliers,
                "requests": self._requests,
            }
        self.context.finding(
            "fail_slow",
            title=f"Requests take {ratio:.1f} times as long as usual.",
            score=round(ratio, 3),
            evidence={
                "recent_ratio": round(ratio, 3),
                "usual_spread": round(2**self._shift.baseline.scale_ - 1, 3),
                "shift": round(self._shift.scores.sum_, 1),
                "shift_limit": self._shift.scores.limit,
                "requests": self._requests,
            },
            causes=causes,
            action="Look at the disk's own log (smartctl -a, nvme smart-log) and at the kernel's; "
            "save what is on it before it fails.",
        )

    def _show(self, end: float) -> None:
        sums = {name: float(self._sums[at]) for name, at in self.context.features.items()}
        requests = sums["reads"] + sums["writes"]
        seconds = end - self._from_s
        if seconds > 0:
            self._shown = {
                "requests_per_s": round(requests / seconds, 1),
                "mean_us": round(sums["device_ns"] / max(requests, 1.0) / 1000, 1),
                "outliers_per_1000": round(1000 * sums["outliers"] / max(requests, 1.0), 2),
                "errors": sums["errors"],
            }


def median_ratio(counts: npt.NDArray[np.float64]) -> float:
    """The median of ratios counted in the agent's bins (shape (12,)), as a power of two.

    Within a bin the ratios are taken to be spread evenly; 0 where nothing was counted.
    """
    below = np.concatenate([[0.0], np.cumsum(counts)])
    if not below[-1] > 0:
        return 0.0
    return float(np.interp(below[-1] / 2, below, _BOUNDS))


def _in_words(number: int) -> str:
    op = ("read", "write")[number & 1]
    size = ("8 KiB", "64 KiB", "512 KiB", "any size")[number >> 1 & 3]
    depth = ("alone", "among 4", "among 16", "among many")[number >> 3 & 3]
    return f"{op} of up to {size}, {depth}" if size != "any size" else f"large {op}, {depth}"
