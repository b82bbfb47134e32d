# SPDX-License-Identifier: Apache-2.0
"""Recognise how a disk's readers access it, from feature windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Phase", "PhaseTracker", "Usage"]

Phase = Literal["idle", "cached", "random", "mixed", "stream"]

_PAGE = 4096
_SETTLED = 3  # windows in a row that must agree
# For "mixed", which lies between the others: a load at random looks so for moments, more
# often under a small readahead.
_SETTLED_MIXED = 10
_FEW = 2  # requests in a window: below that nothing can be said
# Below either the disk hardly matters: misses to a request, and the share of its time that one
# reader would wait for them. (Of mapped files that are in memory few touches are seen at all.)
_MISS_SHARE = 0.002
_WAIT_SHARE = 0.02
# Below either nothing is read ahead that matters: pages that come in to a request, and a second.
_ADD_SHARE = 0.05
_ADD_FEW = 2500
_RANDOM = 0.3  # sequential share below which requests count as random
_STREAM = 0.7  # and above which as in order
_FAR = 8192  # pages between the misses of a file: further than readahead goes
_NEAR = 512  # and nearer than that the disk reads on about where it was
_STEPS_FEW = 3.5  # misses in a window: fewer are near each other by chance
_STEP = (0.5, 1.5)  # from one miss to the next, as a part of what a miss brings in
_ALIKE = 0.5  # the mean change of a stride to the stride, below that all are about the same
_AHEAD = 0.5  # readahead ahead of time to a miss: below that it is misses that fetch


@dataclass(frozen=True)
class Usage:
    """One window in plain numbers. Rates are per second; ``said`` is a model's class, from 1."""

    start_s: float
    end_s: float
    requests: float
    misses: float
    pages: float
    sequential_share: float
    added: float
    removed: float
    uncached_pages: int
    left_pages: int
    device_bytes: float
    device_latency_us: float
    pages_per_miss: float
    stride_pages: float
    stride_spread: float
    ahead: float
    mapped_requests: float
    mapped_misses: float
    said: int

    @classmethod
    def of(cls, window: np.void, column: Mapping[str, int]) -> Usage:
        """From one window: a record of ``layout.WINDOW``."""
        values = window["value"].tolist()
        value = {name: values[index] for name, index in column.items()}
        start, end = int(window["start_ns"]) / 1e9, int(window["end_ns"]) / 1e9
        span = max(end - start, 1e-3)
        requests = value["reads"] + value["faults"] + value["fault_around"]
        sequential = (
            value["read_sequential"] + value["fault_sequential"] + value["around_sequential"]
        )
        misses = value["read_misses"] + value["fault_misses"]
        strides = max(value["strides"], 1)
        return cls(
            start_s=start,
            end_s=end,
            requests=requests / span,
            misses=misses / span,
            pages=max(value["read_pages"], value["added_pages"]) / span,
            sequential_share=sequential / requests if requests else 0.0,
            added=value["added_pages"] / span,
            removed=value["removed_pages"] / span,
            uncached_pages=max(value["file_pages"] - value["file_cached"], 0),
            left_pages=min(value["memory_left"], value["cgroup_left"]),
            device_bytes=value["device_bytes"] / span,
            device_latency_us=value["device_ns"] / max(value["device_reads"], 1) / 1e3,
            pages_per_miss=value["added_pages"] / max(misses, 1),
            stride_pages=value["stride_pages"] / strides,
            stride_spread=value["stride_spread"] / strides,
            ahead=value["async_readahead"] / span,
            mapped_requests=1 - value["reads"] / requests if requests else 0.0,
            mapped_misses=value["fault_misses"] / misses if misses else 0.0,
            said=value["proposal"],
        )

    @property
    def phase(self) -> Phase:
        """Phase of this window alone."""
        span = self.end_s - self.start_s
        if self.requests * span < _FEW:
            return "idle"
        if self._cached:
            return "cached"
        if self.sequential_share < _RANDOM:
            return "random"
        if self.sequential_share > _STREAM:
            return "stream"
        return "random" if self._jumps else "mixed"

    @property
    def _cached(self) -> bool:
        waits = self.misses * self.device_latency_us / 1e6
        few = self.misses <= _MISS_SHARE * self.requests or waits < _WAIT_SHARE
        return few and self.added < max(_ADD_SHARE * self.requests, _ADD_FEW)

    @property
    def mapped_share(self) -> float:
        """Share of reads through mmap: among reads that wait for the disk, or all if none does.

        In a stream none waits: it is read ahead, and a miss is most often another reader's.
        """
        waits = self.misses * (self.end_s - self.start_s) >= _FEW and self.phase != "stream"
        return self.mapped_misses if waits else self.mapped_requests

    @property
    def steps(self) -> bool:
        """True if misses go on, or back, from where the last one of their file was, step by step.

        Then a miss is about as far from the last as what that one brought in, or all are equally
        far apart. Seen of a table that is scanned backwards: strides of 3, 17, 129 and 1,025
        pages where misses brought in 3, 17, 125 and 1,026. Programs that start jump about in
        small files: strides of 34 to 428 pages where misses brought in 3 to 6.
        """
        stride, brought = self.stride_pages, self.pages_per_miss
        if self.misses * (self.end_s - self.start_s) < _STEPS_FEW or stride <= 0:
            return False
        alike = stride <= _NEAR and self.stride_spread <= _ALIKE * stride
        return alike or _STEP[0] * brought <= stride <= _STEP[1] * brought

    @property
    def _jumps(self) -> bool:
        # Is what the disk is read for asked for by misses that lie far apart? Then those count:
        # what others read from memory is much beside the few reads that wait for the disk.
        few = self.misses * (self.end_s - self.start_s) < _FEW
        return not few and self.stride_pages > _FAR and self.ahead < _AHEAD * self.misses


class PhaseTracker:
    """The phase that the last windows agree on.

    It changes when three in a row differ, and to ``mixed`` when ten do.
    """

    def __init__(self) -> None:
        self._next: Phase = "idle"
        self._agreed = 0
        self.phase: Phase = "idle"

    def learn_one(self, usage: Usage) -> bool:
        """Take one window; true if the phase changed with it."""
        self._agreed = self._agreed + 1 if usage.phase == self._next else 1
        self._next = usage.phase
        wanted = _SETTLED_MIXED if self._next == "mixed" else _SETTLED
        if self._next == self.phase or self._agreed < wanted:
            return False
        self.phase = self._next
        return True
