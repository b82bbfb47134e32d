# SPDX-License-Identifier: Apache-2.0
"""Forwarding of requests to files and disks: by io_uring, or by system calls where there is none.

Data moves between the backing and the memory of a request's slot; no byte passes through Python.
A request's number is that of its slot. One thread may use a forwarder: that which makes it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kmind.driver.backing import Backing
from kmind.driver.block import Op, Requests
from kmind.driver.precise import POLLIN, Poll, fallocate
from kmind.errors import KmindError, RingError
from kmind.uring import Buffers, Ring, SqeFlag, prepare, register_buffers, register_files
from kmind.uring import Op as RingOp
from kmind.uring.registered import update_files

__all__ = ["MOST_BACKINGS", "Forwarder", "PlainForwarder", "RingForwarder", "make_forwarder"]

_Ints = npt.NDArray[np.int64]
_Results = tuple[list[int], list[int]]

MOST_BACKINGS = 16
"""Files that one forwarder can have registered."""

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16  # include/uapi/linux/falloc.h
_LONGEST_S = 86_400.0
_WRITE, _FLUSH, _DISCARD = int(Op.WRITE), int(Op.FLUSH), int(Op.DISCARD)


class Forwarder(Protocol):
    """The way to backings, and the place where the server waits: for them, and for others."""

    @property
    def in_flight(self) -> int:
        """Requests that were started, and are not among ``results`` yet."""

    def start(self, slots: _Ints, requests: Requests, backing: Backing) -> None:
        """Start requests, whose data is in the buffers of these numbers."""

    def wait(self, events: Sequence[int], timeout_ns: int | None = None) -> list[int]:
        """Wait until a request is done, or as `Poll.wait` for the watched descriptors."""

    def results(self) -> _Results:
        """Slots that are done, and of each the bytes moved, or a negative error number."""

    def close(self) -> None:
        """Cancel what is in flight, and give all back."""


class RingForwarder:
    """Forwards by io_uring: backings are registered files, the slots' memory a registered buffer.

    What cannot be registered, for want of locked memory say, is named in each request instead.
    ``watched`` are descriptors that it waits for in the same system call as for the backings: a
    poll of the ring's descriptor would need two, and misses completions that are left to this
    thread (IORING_SETUP_DEFER_TASKRUN, Linux 6.18). ``backings`` are registered at once, others
    when they are first used.
    """

    def __init__(
        self, buffers: Buffers, watched: Sequence[int], backings: Sequence[Backing] = ()
    ) -> None:
        self._buffers = buffers
        self._watched = len(watched)
        self._ring = Ring(len(buffers) + 2 * len(watched))
        self._done: _Results = ([], [])
        self.in_flight = 0
        self._files: dict[Backing, int] = {}
        self._fixed = SqeFlag.FIXED_FILE
        self._ops = np.array([RingOp.READ, RingOp.WRITE], np.uint8)
        try:
            register_files(self._ring, [*watched, *[-1] * MOST_BACKINGS])
        except RingError:
            self._fixed = SqeFlag(0)
        try:
            register_buffers(self._ring, [buffers.span])
        except RingError:
            pass
        else:
            self._ops = np.array([RingOp.READ_FIXED, RingOp.WRITE_FIXED], np.uint8)
        for backing in backings:
            self._file(backing)
        # Entries that ask for a descriptor, once to be readable and once for errors alone.
        self._first = len(buffers)
        files = range(len(watched)) if self._fixed else watched
        asked = [(file, events) for file in files for events in (0, POLLIN)]
        self._polls = [
            prepare.poll(file, events, self._first + index, flags=self._fixed)
            for index, (file, events) in enumerate(asked)
        ]
        self._armed = [False] * len(self._polls)

    def start(self, slots: _Ints, requests: Requests, backing: Backing) -> None:
        """Push the entries; they go to the kernel with the next `wait`."""
        file, op = self._file(backing), requests.op
        if op.max() <= _WRITE:
            entries = prepare.read(
                file, requests.offset, self._buffers.addresses(slots), requests.length, slots,
                flags=self._fixed,
            )  # fmt: skip
            entries["opcode"] = self._ops[op]
            self._push(entries)
            return
        moved, flush = op <= _WRITE, op == _FLUSH
        if moved.any():
            self.start(slots[moved], requests[moved], backing)
        if flush.any():
            self._push(prepare.fsync(file, slots[flush], data_only=True, flags=self._fixed))
        if (ranges := ~(moved | flush)).any():
            chosen = requests[ranges]
            what = (_modes(chosen), chosen.offset, chosen.length)
            self._push(prepare.fallocate(file, *what, slots[ranges], flags=self._fixed))

    def wait(self, events: Sequence[int], timeout_ns: int | None = None) -> list[int]:
        """One system call, which also hands over what was started."""
        armed = self._armed
        for file, asked in enumerate(events):
            index = 2 * file + (asked != 0)
            if not armed[index] and not armed[index | 1]:
                self._ring.push(self._polls[index])
                armed[index] = True
        seconds = _LONGEST_S if timeout_ns is None else min(timeout_ns / 1e9, _LONGEST_S)
        self._ring.submit(1, max(seconds, 0.0))
        return self._reap()

    def _reap(self) -> list[int]:
        told = [0] * self._watched
        done = self._ring.reap()
        slots, results = self._done
        for number, result in zip(done["user_data"].tolist(), done["res"].tolist(), strict=True):
            if number < self._first:
                slots.append(number)
                results.append(result)
                self.in_flight -= 1
            else:
                self._armed[number - self._first] = False
                told[(number - self._first) // 2] |= max(result, 0)
        return told

    def results(self) -> _Results:
        """Those that a `wait` has found."""
        done, self._done = self._done, ([], [])
        return done

    def close(self) -> None:
        """Cancel, and wait for a second at most: the kernel may write into the memory till then."""
        self._ring.close()

    def _push(self, entries: prepare.Entries) -> None:
        # There is room: the ring has an entry for each slot.
        self.in_flight += self._ring.push(entries)

    def _file(self, backing: Backing) -> int:
        if not self._fixed:
            return backing.descriptor
        number = self._files.get(backing)
        if number is None:
            number = self._watched + len(self._files)
            if len(self._files) == MOST_BACKINGS:
                raise KmindError(f"a driver can forward to {MOST_BACKINGS} backings, not more")
            update_files(self._ring, number, [backing.descriptor])
            self._files[backing] = number
        return number


class PlainForwarder:
    """Forwards by system calls, each of which the driver waits for."""

    in_flight = 0

    def __init__(self, buffers: Buffers, watched: Sequence[int]) -> None:
        self._rows = [row.data for row in buffers.rows]
        self._done: _Results = ([], [])
        self._poll = Poll(watched)

    def start(self, slots: _Ints, requests: Requests, backing: Backing) -> None:
        """Do them."""
        modes = _modes(requests).tolist()
        columns = (requests.op.tolist(), requests.offset.tolist(), requests.length.tolist())
        for slot, op, offset, length, mode in zip(slots.tolist(), *columns, modes, strict=True):
            try:
                done = self._do(backing.descriptor, slot, op, offset, length, mode)
            except OSError as error:
                done = -(error.errno or errno.EIO)
            self._done[0].append(slot)
            self._done[1].append(done)

    def _do(self, file: int, slot: int, op: int, offset: int, length: int, mode: int) -> int:
        if op <= _WRITE:
            move = os.pwritev if op == _WRITE else os.preadv
            return move(file, [self._rows[slot][:length]], offset)
        if op == _FLUSH:
            os.fdatasync(file)
        else:
            fallocate(file, mode, offset, length)
        return 0

    def wait(self, events: Sequence[int], timeout_ns: int | None = None) -> list[int]:
        """For the watched descriptors: all requests were done as they were started."""
        return self._poll.wait(events, timeout_ns)

    def results(self) -> _Results:
        """All."""
        done, self._done = self._done, ([], [])
        return done

    def close(self) -> None:
        """Nothing is in flight."""


def make_forwarder(
    buffers: Buffers, watched: Sequence[int], backings: Sequence[Backing] = ()
) -> Forwarder:
    """By io_uring if this kernel and its filters let us, else by system calls."""
    try:
        return RingForwarder(buffers, watched, backings)
    except KmindError:
        return PlainForwarder(buffers, watched)


def _modes(requests: Requests) -> npt.NDArray[np.int64]:
    # Where space may not be freed, a range is zeroed in its place. A backing that cannot, such as
    # a file on tmpfs, refuses it, and the kernel's block layer writes zeros then.
    unmap = requests.unmap | (requests.op == _DISCARD)
    return np.where(unmap, _PUNCH_HOLE | _KEEP_SIZE, _ZERO_RANGE | _KEEP_SIZE)
