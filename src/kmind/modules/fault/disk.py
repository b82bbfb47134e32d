# SPDX-License-Identifier: Apache-2.0
"""The driver ``fault``: a file or disk made slow, failing, and forgetful.

Each request takes what the law of latency says, or what the backing takes if that is longer. With a
cache, writes are acknowledged before they are safe, and `Fault.cut` loses a choice of them. All is
drawn from one seed: the same requests in the same order meet the same faults.
"""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kmind.driver import Backing, Batch, BlockDriver, Op
from kmind.modules.fault.cache import CutReport, VolatileCache
from kmind.modules.fault.failures import Failures
from kmind.modules.fault.latency import Law
from kmind.modules.fault.log import InjectionLog

__all__ = ["BackingStore", "Fault", "Plan", "generators"]

_READ, _WRITE, _FLUSH = int(Op.READ), int(Op.WRITE), int(Op.FLUSH)
_MOST_ZEROES = 1 << 20
"""Larger ranges are zeroed on the backing, after a flush: a disk may always do one."""


def generators(seed: int) -> list[np.random.Generator]:
    """Three, for latencies, failures, and cuts: none depends on how often the others were asked."""
    return [np.random.default_rng(one) for one in np.random.SeedSequence(seed).spawn(3)]


class BackingStore:
    """A backing as the store below a cache, written through the page cache.

    That survives this process: the power that fails is only the served disk's.
    """

    def __init__(self, backing: Backing) -> None:
        backing.use_page_cache()
        self._backing = backing

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of it."""
        done = 0
        while done < len(data):
            done += os.pwrite(self._backing.descriptor, data[done:], offset + done)

    def sync(self) -> None:
        """fdatasync(2)."""
        os.fdatasync(self._backing.descriptor)


@dataclass(frozen=True)
class Plan:
    """The faults of a disk. ``law`` draws from a generator of its own; see `generators`.

    ``cache_bytes`` of None has no cache: what was answered is on the backing. ``cut_at`` cuts the
    power before the request of that number is served. ``sector`` is the most that a cut never
    tears, in bytes; the disk's blocks should not be smaller.
    """

    law: Law | None = None
    failures: Failures | None = None
    cache_bytes: int | None = None
    cut_at: int | None = None
    seed: int = 0
    sector: int = 512


class Fault(BlockDriver):
    """Serves a backing as planned. After a cut every request fails with EIO."""

    operations: ClassVar[frozenset[Op]] = frozenset({Op.FLUSH, Op.DISCARD, Op.WRITE_ZEROES})

    def __init__(self, backing: Backing, plan: Plan, log: InjectionLog | None = None) -> None:
        self.size = backing.size
        self._backing = backing
        self._law = plan.law
        self._failures = plan.failures
        self._cache: VolatileCache | None = None
        if plan.cache_bytes is not None:
            store = BackingStore(backing)
            self._cache = VolatileCache(store, limit=plan.cache_bytes, sector=plan.sector)
        self._cut_at = plan.cut_at
        _, self._failing, self._cutting = generators(plan.seed)
        self._log = log or InjectionLog()
        self._log.begin(plan.seed, self.size)
        self._lock = threading.Lock()
        self.requests = 0
        """Requests that came."""
        self.report: CutReport | None = None
        """The end of the power, once it was cut."""

    def cut(self) -> CutReport:
        """Cut the power, from any thread; a second time it is cut already."""
        with self._lock:
            return self._cut(self.requests)

    def _cut(self, request: int) -> CutReport:
        if self.report is None:
            self.report = CutReport("no cache", 0, 0, 0)  # even if the store fails now
            if self._cache is not None:
                self.report = self._cache.cut(self._cutting)
            self._log.cut(request, self.report)
        return self.report

    def serve(self, batch: Batch) -> None:
        """Delay, fail, forward, or keep in the cache."""
        with self._lock:
            if self.report is not None:
                batch.fail(batch.open, errno.EIO)
                return
            first = self.requests
            self.requests += len(batch)
            served = len(batch)
            if self._cut_at is not None and self.requests > self._cut_at:
                served = max(self._cut_at - first, 0)
            self._inject(batch, first)
            if served < len(batch):
                late = batch.open
                late[:served] = False
                batch.fail(late, errno.EIO)
            if self._cache is None:
                batch.forward(self._backing)
            else:
                self._serve_cached(batch, self._cache)
            if served < len(batch):
                self._cut(first + served)

    def _inject(self, batch: Batch, first: int) -> None:
        if self._law is not None:
            at_ns = self._log.elapsed_ns()
            delays = self._law.draw(batch.op, at_ns)
            batch.delay(np.arange(len(batch)), delays)
            self._log.delays(first, at_ns, delays)
        if self._failures is not None:
            bad = self._failures.choose(batch, first, self._failing)
            if bad.any():
                self._log.failures(batch, first, bad, self._failures.error)
                batch.fail(bad, self._failures.error)

    def _serve_cached(self, batch: Batch, cache: VolatileCache) -> None:
        done: list[int] = []
        forwarded: list[int] = []
        for index in np.flatnonzero(batch.open).tolist():
            offset, length = int(batch.offset[index]), int(batch.length[index])
            try:
                if (offset | length) % cache.sector:
                    batch.fail(index, errno.EINVAL)  # of the bare file: a disk has sectors
                elif self._keep(batch, index, offset, length, cache):
                    done.append(index)
                else:
                    forwarded.append(index)
            except OSError as error:  # the backing is full, say
                batch.fail(index, error.errno or errno.EIO)
        batch.finish(done)
        if forwarded:
            batch.forward(self._backing, forwarded)

    def _keep(
        self, batch: Batch, index: int, offset: int, length: int, cache: VolatileCache
    ) -> bool:
        # False if the backing is to do it.
        op = int(batch.op[index])
        if op == _READ:
            if not cache.covers(offset, length):
                return False
            self._read(offset, batch.data[index])
            cache.read(offset, batch.data[index])
        elif op == _WRITE:
            cache.write(offset, batch.data[index])
        elif op == _FLUSH:
            cache.flush()
        elif length <= _MOST_ZEROES:
            cache.write(offset, bytes(length))
        else:
            cache.flush()
            return False
        return True

    def _read(self, offset: int, into: memoryview) -> None:
        got = os.preadv(self._backing.descriptor, [into], offset)
        if got != len(into):
            raise OSError(errno.EIO, "the backing has shrunk")
