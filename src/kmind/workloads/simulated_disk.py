# SPDX-License-Identifier: Apache-2.0
"""A disk and its page cache in virtual time: what the readahead module would see of them.

The model is small on purpose. It shows which way a change goes, never how far on a
real disk. What it has:

- A fetch from the disk costs ``latency_s``, or ``next_s`` if it goes on where the last
  one ended, and its bytes at ``bytes_per_s``. Touching what is cached costs ``hit_s``.
- The cache keeps the last ``cache_pages`` pages that came in (first in, first out).
- Readahead as in mm/readahead.c and mm/filemap.c, in outline: a miss in order fetches the
  whole window, and the next one is fetched when half of it is used; a miss out of
  order fetches the window around it if the file is mapped, and else only what was asked.
- Touching a mapped page that is cached maps 16 of them at once (fault-around).

One reader, one file; fetches are not overlapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

from kmind.agent.sim.agent import SimAgent
from kmind.errors import KnobError
from kmind.extension import find_module
from kmind.knobs import Target, get_knob
from kmind.workloads.streams import Stream

__all__ = ["DiskModel", "SimulatedDisk", "make_disk_files"]

_PAGE = 4096
_AROUND = 16  # pages, fault_around_bytes
_NEAR = 32  # pages: RA_NEAR of readahead.bpf.c
_STRIDE_MAX = 1 << 20  # RA_STRIDE_MAX
_TICK_S = 0.01
_FREE_PAGES = 1 << 22  # of the node: the cache's own limit is what counts
_KNOB = "block.read_ahead_kb"


@dataclass(frozen=True)
class DiskModel:
    """Costs of a simulated disk: latencies in seconds, bytes a second, sizes in pages."""

    latency_s: float = 90e-6
    next_s: float = 15e-6
    bytes_per_s: float = 600e6
    hit_s: float = 1.5e-6
    file_pages: int = 1 << 18
    cache_pages: int = 1 << 16


def make_disk_files(root: Path, name: str = "sim0", read_ahead_kb: int = 8192) -> Target:
    """A disk's files below ``root``, so that its knob can be read and written; the disk."""
    device = root / "sys/block" / name
    (device / "queue").mkdir(parents=True)
    (device / "mq").mkdir()
    # A number that no real disk has.
    (device / "dev").write_text(f"{(1 << 12) - 1}:{(1 << 20) - 1}\n")
    (device / "queue/read_ahead_kb").write_text(f"{read_ahead_kb}\n")
    return Target.block(name, root=root)


class SimulatedDisk:
    """One reader of one file, told to ``agent`` as the readahead module's hooks would.

    ``agent`` is one that its caller steps (``realtime=False``); its time is this disk's.
    ``now`` is the virtual time in seconds, ``accesses`` how many were served so far.
    Not thread-safe.
    """

    def __init__(
        self,
        agent: SimAgent,
        target: Target,
        model: DiskModel | None = None,
        *,
        now: float = 1000.0,
    ) -> None:
        self.model = model or DiskModel()
        self.target = target
        self.now = now
        self.accesses = 0
        self._agent = agent
        self._knob = get_knob(_KNOB)
        self._column = find_module("readahead").manifest.columns
        self._count = dict.fromkeys(self._column, 0)
        self._stamps = np.full(self.model.file_pages, -(1 << 62), np.int64)
        self._inserted = 0
        self._next_page = -1  # where the reader would go on
        self._next_fetch = -1  # where the disk would
        self._marker = self._ahead = -1  # in order: fetch from ahead on when marker is used
        self._last_miss = self._last_stride = 0
        self._mapped_block = -1
        self._window = -1
        self._ra_pages = 0
        self._tick_at = now
        self._stream: Stream | None = None
        self._accesses: Iterator[list[int]] = iter(())

    @property
    def cached_pages(self) -> int:
        """Number of pages of the file that the cache holds."""
        return min(self._inserted, self.model.cache_pages)

    def drop_caches(self) -> None:
        """Empty the cache."""
        self._stamps[:] = -(1 << 62)
        self._count["removed_pages"] += self.cached_pages
        self._inserted = 0
        self._marker = self._ahead = -1

    def run(
        self,
        stream: Stream,
        seconds: float,
        *,
        mapped: bool,
        each_tick: Callable[[], object] = lambda: None,
    ) -> float:
        """Serve a stream for so many virtual seconds; accesses a second.

        At its end it begins again; the same one goes on where the last run left it.
        ``mapped`` says that the file is read through mmap. ``each_tick`` is called every
        10 ms of virtual time, after the agent's tick: there the owner and the extension
        take their turns.
        """
        began, before, end = self.now, self.accesses, self.now + seconds
        if stream is not self._stream:
            self._stream, self._accesses = stream, cycle(stream.tolist())
        while self.now < end:
            with suppress(KnobError):  # it is just being written, by another thread
                self._ra_pages = int(self._knob.read(self.target)) * 1024 // _PAGE
            # A fetch may take longer than a tick: the agent ticks on meanwhile.
            self._tick_at += _TICK_S
            while self.now < self._tick_at:
                page, length = next(self._accesses)
                self._serve(page, length, mapped)
            self._tell()
            self._agent.step(round(self._tick_at * 1e9))
            each_tick()
        return (self.accesses - before) / (self.now - began)

    def _serve(self, page: int, length: int, mapped: bool) -> None:
        count, last = self._count, page + length - 1
        self.accesses += 1
        near = _NEAR if mapped else 1
        in_order = 0 <= page + 1 - self._next_page <= near
        missing = np.flatnonzero(self._stamps[page : last + 1] <= self._oldest())
        self._next_page = last + 1
        self.now += self.model.hit_s
        if not mapped:
            count["reads"] += 1
            count["read_pages"] += length
            count["read_sequential"] += in_order
        elif len(missing):
            count["faults"] += 1
            count["fault_sequential"] += in_order
        elif page // _AROUND != self._mapped_block:
            count["fault_around"] += 1
            count["around_sequential"] += in_order
        self._mapped_block = page // _AROUND
        if len(missing):
            self._miss(page + int(missing[0]), last, mapped, in_order)
        elif page <= self._marker <= last:
            count["async_readahead"] += 1
            self._read_ahead(self._ahead, self._ra_pages)

    def _miss(self, page: int, last: int, mapped: bool, in_order: bool) -> None:
        count, window = self._count, self._ra_pages
        count["fault_misses" if mapped else "read_misses"] += 1
        count["sync_readahead"] += 1
        stride, spread = page - self._last_miss, page - self._last_miss - self._last_stride
        self._last_miss, self._last_stride = page, stride
        count["strides"] += 1
        count["stride_pages"] += min(abs(stride), _STRIDE_MAX)
        count["stride_spread"] += min(abs(spread), _STRIDE_MAX)
        if (current := self._agent.account()["windows"]) != self._window:
            self._window = current
            count["file_pages"] += self.model.file_pages
            count["file_cached"] += self.cached_pages
        asked = last + 1 - page
        if in_order:
            self._read_ahead(page, max(window, asked))
        elif mapped:
            self._fetch(max(0, page - window // 2), max(window, asked))
            if self._stamps[page] <= self._oldest():  # no window at all
                self._fetch(page, asked)
        else:
            self._fetch(page, asked)

    def _read_ahead(self, first: int, pages: int) -> None:
        self._fetch(first, pages)
        self._marker, self._ahead = first + pages // 2, first + pages

    def _fetch(self, first: int, pages: int) -> None:
        first, end = min(first, self.model.file_pages), min(first + pages, self.model.file_pages)
        part = self._stamps[first:end]
        new = part <= self._oldest()
        fetched = int(new.sum())
        if not fetched:
            return
        cost = self.model.next_s if first == self._next_fetch else self.model.latency_s
        cost += fetched * _PAGE / self.model.bytes_per_s
        before = self.cached_pages
        part[new] = np.arange(self._inserted + 1, self._inserted + fetched + 1)
        self._inserted += fetched
        self._next_fetch = end
        self.now += cost
        count = self._count
        count["added_pages"] += fetched
        count["removed_pages"] += before + fetched - self.cached_pages
        count["device_reads"] += 1
        count["device_bytes"] += fetched * _PAGE
        count["device_ns"] += round(cost * 1e9)

    def _oldest(self) -> int:
        # Pages with this stamp or an older one have left the cache.
        return self._inserted - self.model.cache_pages

    def _tell(self) -> None:
        for name, amount in self._count.items():
            if amount:
                self._agent.count(self._column[name], int(amount))
                self._count[name] = 0
        left = self.model.cache_pages - self.cached_pages
        self._agent.gauge(self._column["cgroup_left"], left)
        self._agent.gauge(self._column["memory_left"], _FREE_PAGES)
