# SPDX-License-Identifier: Apache-2.0
"""Serves network interfaces by a `NetDriver`: frames are read and written in batches by io_uring.

A turn sends what is due, waits for frames until the next one is, and gives those that came to the
driver. Of an idle interface one read waits in the kernel; once it returns, bursts of further reads,
which do not wait, take what else is there, until one finds nothing.

The ring is restricted to reads and writes of the interfaces it was made with.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from kmind.driver.net.batch import Batch, Frames, Ints, NetDriver
from kmind.driver.net.flight import Flight, Slots
from kmind.driver.net.tap import VNET, Tap
from kmind.driver.precise import set_timer_slack
from kmind.errors import RingError, UsageError
from kmind.uring import Buffers, Op, Ring, SqeFlag, prepare, register_buffers, register_files
from kmind.uring import restrict as restrict_ring

__all__ = ["Counts", "NetServer"]

# user_data: the slot, whether a read waits, of a write the interface, and the kind.
_SLOT, _FIRST, _TO, _KIND = (1 << 31) - 1, 1 << 31, 32, 48
_READ, _WRITE, _WAKE = 1, 2, 3
_FIXED = int(SqeFlag.FIXED_FILE)
_NOWAIT = 0x8  # RWF_NOWAIT: -EAGAIN where there is no frame
_ENTRIES = 1024
_LEAST_BURST = 4
_LONGEST_S = 60.0


@dataclass
class Counts:
    """Frames of one interface: those that came from it, and what became of those sent to it."""

    received: int = 0
    received_bytes: int = 0
    sent: int = 0
    dropped: int = 0
    """By the driver's word; counted where they came from, as those below."""
    overflow: int = 0
    """More came than may be in flight."""
    refused: int = 0
    """The kernel did not take them: the interface they were for is down. Counted there."""


class NetServer:
    """The frames of some interfaces, and the driver that decides about them.

    ``depth`` frames of each interface may be in flight, and ``burst`` more be read at a time:
    unless told 4096 and 256, or 512 and 64 where an interface has offload. For so many memory is
    set aside here: 4 KiB each, or 68 KiB with offload.
    ``report`` is told what ``serve`` raises.
    """

    def __init__(
        self,
        driver: NetDriver,
        taps: Sequence[Tap],
        *,
        depth: int = 0,
        burst: int = 0,
        report: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._aggregated = any(tap.offload for tap in taps)
        depth = depth or (512 if self._aggregated else 4096)
        burst = burst or (64 if self._aggregated else 256)
        if not 1 <= depth <= 1 << 16 or not _LEAST_BURST <= burst <= 256 or not taps:
            raise UsageError(
                f"{len(taps)} interfaces, depth {depth}, burst {burst}",
                hint="use one interface or more, a depth up to 65536, a burst of 4 to 256",
            )
        self.driver = driver
        self.counts = [Counts() for _ in taps]
        self._taps, self._depth, self._burst, self._report = taps, depth, burst, report
        self._each = depth + burst + 1
        self._frame_bytes = max(tap.frame_bytes for tap in taps)
        spare = len(taps) * self._each  # the wake-up's own
        self._buffers = Buffers(spare + 1, self._frame_bytes)
        self._length = np.zeros(spare, np.int64)
        self._spare = spare
        self._slots = [Slots(at * self._each, self._each) for at in range(len(taps))]
        self._flight = Flight()
        self._late: deque[tuple[Ints, Ints, Ints]] = deque()
        self._armed = [False] * len(taps)
        self._wanted = [_LEAST_BURST] * len(taps)  # reads of the next burst; 0: none
        self._reading = [0] * len(taps)
        self._stopping = False
        self._thread = 0
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            self._ring = Ring(_ENTRIES, completions=8 * _ENTRIES, disabled=True)
            register_files(self._ring, [*(tap.fd for tap in taps), self._wake])
            register_buffers(self._ring, [self._buffers.span])
            restrict_ring(self._ring, [Op.READ_FIXED, Op.WRITE_FIXED])
        except BaseException:
            os.close(self._wake)
            raise

    @property
    def in_flight(self) -> int:
        """Frames that came, and were neither sent nor dropped yet."""
        return sum(map(self._held, range(len(self._taps))))

    def run(self) -> None:
        """Serve in this thread until `stop`; only once. What is in flight then is dropped."""
        self._thread = threading.get_ident()
        set_timer_slack()
        try:
            self._ring.enable()
            self._arm_wake()
            while not self._stopping:
                self._turn()
        finally:
            self._ring.close()
            os.close(self._wake)
            self._wake = -1

    def stop(self) -> None:
        """Have `run` return soon; from any thread."""
        self._stopping = True
        self._wake_up()

    # One turn.

    def _turn(self) -> None:
        while self._late:
            self._take_late(*self._late.popleft())
        if len(self._flight):
            self._write(*self._flight.take(time.monotonic_ns()))
        for at in range(len(self._taps)):
            self._push_reads(at)
        timeout = _LONGEST_S
        if len(self._flight):
            timeout = min(max(self._flight.next - time.monotonic_ns(), 0) / 1e9, _LONGEST_S)
        if self._ring.submit(1, timeout):
            done = self._ring.reap()
            self._completed(done["user_data"].astype(np.int64), done["res"].astype(np.int64))

    def _completed(self, data: Ints, results: Ints) -> None:
        now = time.monotonic_ns()
        kinds = data >> _KIND
        reads = kinds == _READ
        if not reads.all():
            writes = kinds == _WRITE
            self._written(data[writes], results[writes])
            if (kinds == _WAKE).any():
                self._arm_wake()
            data, results = data[reads], results[reads]
        if len(data):
            self._read(data, results, now)

    def _push_reads(self, at: int) -> None:
        # Either a burst, or the one that waits: while that is there each frame that comes wakes
        # this process, which costs its sender more than the frame, and us a turn for it alone.
        count = self._wanted[at] or int(not self._armed[at])
        if not count:
            return
        slots = self._slots[at].take(count)
        self._reading[at] += count
        data = slots | (_READ << _KIND)
        if not self._wanted[at]:
            self._armed[at] = True
            data |= _FIRST
        size, places = self._frame_bytes, self._buffers.addresses(slots)
        entries = prepare.read_fixed(at, -1, places, size, data, flags=_FIXED)
        entries["op_flags"] = _NOWAIT if self._wanted[at] else 0
        self._push(entries)

    def _read(self, data: Ints, results: Ints, now: int) -> None:
        slots = data & _SLOT
        source = slots // self._each
        keep = whole = results >= VNET.itemsize
        for at in range(len(self._taps)):
            mine = source == at
            asked = int(np.count_nonzero(mine))
            if not asked:
                continue
            first = mine & (data & _FIRST != 0)
            if first.any():
                self._armed[at] = False
                self._check(int(results[first][0]), at)
            came = np.flatnonzero(mine & whole)
            room = self._depth - self._held(at)
            self._reading[at] -= asked
            self._adapt(at, asked, len(came))
            if len(came) > room:
                keep = keep.copy() if keep is whole else keep
                keep[came[room:]] = False
            self._count_reads(at, results[came], room)
            self._slots[at].give(slots[mine & ~keep])
        slots, results = slots[keep], results[keep]
        if len(slots):
            self._length[slots] = results
            self._serve(slots, source[keep], results - VNET.itemsize, now)

    def _count_reads(self, at: int, sizes: Ints, room: int) -> None:
        counts = self.counts[at]
        counts.received += len(sizes)
        counts.received_bytes += int(sizes.sum()) - len(sizes) * VNET.itemsize
        counts.overflow += max(len(sizes) - room, 0)

    def _adapt(self, at: int, asked: int, came: int) -> None:
        # The next burst: twice as many if all came, none if nothing is left to read.
        if came == asked:
            self._wanted[at] = min(2 * max(asked, _LEAST_BURST), self._burst)
        else:
            self._wanted[at] = min(max(2 * came, _LEAST_BURST), self._burst) if came else 0

    def _check(self, result: int, at: int) -> None:
        # A read that waits fails only where it has nothing to wait for.
        if result < 0 and result not in (-errno.EAGAIN, -errno.EINTR, -errno.ECANCELED):
            raise RingError(
                f"{self._taps[at].name} cannot be read: {os.strerror(-result)}",
                hint="somebody deleted it, or its namespace has ended",
            )

    def _serve(self, slots: Ints, source: Ints, length: Ints, now: int) -> None:
        batch = Batch(
            Frames(self._buffers.rows, slots, length),
            source,
            now,
            interfaces=len(self._taps),
            aggregated=self._aggregated,
            send=self._answered_later,
        )
        failed = False
        try:
            self.driver.serve(batch)
        except Exception as error:
            failed = True
            self._report(error)
        slots, to, due, dropped = batch.end_of_serve(failed=failed)
        self._drop(dropped)
        if not len(self._flight) and (due <= now).all():
            self._write(slots, to)
        else:
            self._flight.add(slots, to, due)

    # What leaves.

    def _write(self, slots: Ints, to: Ints) -> None:
        if not len(slots):
            return
        data = slots | to << _TO | _WRITE << _KIND
        places = self._buffers.addresses(slots)
        self._push(prepare.write_fixed(to, -1, places, self._length[slots], data, flags=_FIXED))

    def _written(self, data: Ints, results: Ints) -> None:
        if not len(data):
            return
        self._free(data & _SLOT)
        to = (data >> _TO) & 0xFFFF
        for at, counts in enumerate(self.counts):
            mine = results[to == at]
            failed = int(np.count_nonzero(mine < 0))
            counts.sent += len(mine) - failed
            counts.refused += failed

    def _drop(self, slots: Ints) -> None:
        if not len(slots):
            return
        self._free(slots)
        for at, count in enumerate(np.bincount(slots // self._each).tolist()):
            self.counts[at].dropped += count

    def _free(self, slots: Ints) -> None:
        if len(self._taps) == 1:
            self._slots[0].give(slots)
            return
        source = slots // self._each
        for at, own in enumerate(self._slots):
            own.give(slots[source == at])

    def _held(self, at: int) -> int:
        return self._each - self._slots[at].free - self._reading[at]

    def _push(self, entries: prepare.Entries) -> None:
        while (taken := self._ring.push(entries)) < len(entries):
            entries = entries[taken:]
            self._ring.submit()

    # Answers that come after `serve`, perhaps from other threads.

    def _answered_later(self, slots: Ints, to: Ints, due: Ints) -> None:
        self._late.append((slots, to, due))
        if threading.get_ident() != self._thread:
            self._wake_up()

    def _take_late(self, slots: Ints, to: Ints, due: Ints) -> None:
        gone = to < 0
        self._drop(slots[gone])
        self._flight.add(slots[~gone], to[~gone], due[~gone])

    def _arm_wake(self) -> None:
        address = self._buffers.address + self._spare * self._buffers.stride
        index = len(self._taps)
        self._push(prepare.read_fixed(index, -1, address, 8, _WAKE << _KIND, flags=_FIXED))

    def _wake_up(self) -> None:
        with suppress(OSError):  # closed: nobody is to be woken
            os.eventfd_write(self._wake, 1)
