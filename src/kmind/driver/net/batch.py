# SPDX-License-Identifier: Apache-2.0
"""Network drivers: batches of frames, and the class that forwards, delays and drops them.

A frame that ``serve`` does not answer stays in flight. It may be answered later, in any order and
from any thread, through the batch that it came in.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from kmind.driver.block import AnswerError, Which
from kmind.driver.net.tap import VNET

__all__ = ["Batch", "Frames", "Ints", "NetDriver", "Sender"]

Ints: TypeAlias = npt.NDArray[np.int64]

_LONGEST = 365 * 86_400 * 10**9
_OPEN, _FORWARD, _DROP, _GONE = range(4)
_TCP_OFFSET = 12  # of the byte whose upper half is the header's length in words
# Root of a namespace writes what headers he likes: bounds keep a frame from counting as millions.
_MOST_HEADER, _LEAST_SEGMENT = 256, 8  # the latter is TCP_MIN_GSO_SIZE


class Sender(Protocol):
    """The transport's half of a batch: it takes what was answered after ``serve``."""

    def __call__(self, slots: Ints, to: Ints, due: Ints, /) -> None:
        """Send the frames in these slots out of an interface at a time, or nowhere (-1)."""


class Frames(Sequence[npt.NDArray[np.uint8]]):
    """Frames as arrays of bytes, from the Ethernet header on: views, which may be written to."""

    def __init__(self, rows: npt.NDArray[np.uint8], slots: Ints, length: Ints) -> None:
        self.rows, self.slots, self.length = rows, slots, length

    def __len__(self) -> int:
        return len(self.slots)

    def __getitem__(self, index: Any) -> Any:
        """One frame."""
        start = VNET.itemsize
        return self.rows[self.slots[index], start : start + int(self.length[index])]

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        return (self[index] for index in range(len(self)))

    def head(self, size: int) -> npt.NDArray[np.uint8]:
        """The first bytes of all frames, a row each: a copy; beyond a frame's end stands anything.

        For a look at addresses and ports of many frames at once.
        """
        start = VNET.itemsize
        return self.rows[self.slots, start : start + size]


class Batch:
    """Some frames, each with its index from 0 on, oldest first.

    ``source`` is the interface that each came from, ``length`` its bytes, ``arrival`` when they
    were taken from there, in nanoseconds of time.monotonic_ns. Memory of a frame is another's as
    soon as it is sent or dropped.
    """

    def __init__(
        self,
        frames: Frames,
        source: Ints,
        arrival: int,
        *,
        interfaces: int,
        aggregated: bool,
        send: Sender,
    ) -> None:
        slots = frames.slots
        self.source, self.length, self.arrival = source, frames.length, arrival
        self.frames = frames
        self._rows, self._slots, self._send = frames.rows, slots, send
        self._interfaces, self._aggregated = interfaces, aggregated
        self._state = np.zeros(len(slots), np.uint8)
        self._to = np.zeros(len(slots), np.int64)
        self._due = np.full(len(slots), arrival, np.int64)
        self._serving = True
        self._lock = threading.Lock()
        self._counts: tuple[Ints, Ints] | None = None

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def open(self) -> npt.NDArray[np.bool_]:
        """The mask of the frames that are not answered yet."""
        return np.equal(self._state, _OPEN)

    @property
    def packets(self) -> Ints:
        """The number of packets that each frame stands for: over 1 for an aggregated one."""
        return self._accounts()[0]

    @property
    def wire(self) -> Ints:
        """Bytes that these packets have, each with headers of its own; Ethernet's included."""
        return self._accounts()[1]

    def forward(self, which: Which, to: int | Ints) -> None:
        """Send frames out of interface ``to``: at the end of ``serve``, or once `delay` is over.

        Raises AnswerError, and does nothing, if a frame is unknown, named twice or answered
        already, or if there is no such interface.
        """
        target = np.asarray(to)
        if target.dtype.kind not in "iu" or (
            target.size and not 0 <= target.min() <= target.max() < self._interfaces
        ):
            raise AnswerError(f"no interface {to}", hint=f"there are {self._interfaces}, from 0 on")
        indices = self._indices(which)
        if target.ndim and target.shape != indices.shape:
            raise AnswerError(f"{target.size} interfaces for {len(indices)} frames")
        with self._lock:
            self._answer(indices, _FORWARD)
            self._to[indices] = target
            if self._serving:
                return
            self._state[indices] = _GONE
        self._send(self._slots[indices], self._to[indices], self._due[indices])

    def delay(self, which: Which, ns: int | Ints) -> None:
        """Let frames go so many nanoseconds after ``arrival``, not at once.

        It does not answer them: call it before or after `forward`, in the same ``serve``; or
        before it, later on. The last one counts. Raises AnswerError for a frame that is gone, and
        for a time that is negative or over a year.
        """
        times = np.asarray(ns)
        if times.dtype.kind not in "iu" or (
            times.size and not 0 <= times.min() <= times.max() <= _LONGEST
        ):
            raise AnswerError("a delay has whole nanoseconds, up to a year")
        indices = self._indices(which)
        if times.ndim and times.shape != indices.shape:
            raise AnswerError(f"{times.size} delays for {len(indices)} frames")
        with self._lock:
            if (self._state[indices] >= _DROP).any():
                raise AnswerError("a frame that is gone cannot be delayed")
            self._due[indices] = self.arrival + times

    def drop(self, which: Which) -> None:
        """Throw frames away. Raises AnswerError as `forward` does."""
        indices = self._indices(which)
        with self._lock:
            self._answer(indices, _DROP)
            if self._serving:
                return
            self._state[indices] = _GONE
        self._send(self._slots[indices], np.full(len(indices), -1), self._due[indices])

    def end_of_serve(self, *, failed: bool = False) -> tuple[Ints, Ints, Ints, Ints]:
        """For the transport: slots that go, where to, and when; and slots of dropped frames.

        What is answered later goes through ``send``; if ``serve`` has ``failed``, what it left
        unanswered is dropped.
        """
        with self._lock:
            self._serving = False
            if failed:
                self._state[self._state == _OPEN] = _DROP
            gone = self._state == _FORWARD
            dropped = self._state == _DROP
            self._state[gone | dropped] = _GONE
        return self._slots[gone], self._to[gone], self._due[gone], self._slots[dropped]

    def _answer(self, indices: Ints, state: int) -> None:
        if (self._state[indices] != _OPEN).any():
            raise AnswerError("a frame is answered already")
        self._state[indices] = state

    def _indices(self, which: Which) -> Ints:
        array = which if isinstance(which, np.ndarray) and which.ndim else np.atleast_1d(which)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "biu"):
            raise AnswerError("frames are named by indices, or by a mask")
        count = len(self._slots)
        if array.dtype == bool:
            if array.size != count:
                raise AnswerError(f"a mask of {array.size} for a batch of {count}")
            return np.flatnonzero(array)
        indices: Ints = array.astype(np.int64)
        if len(indices):
            if not 0 <= indices.min() <= indices.max() < count:
                raise AnswerError(f"no such frame in a batch of {count}")
            if len(indices) > 1 and np.bincount(indices).max() > 1:
                raise AnswerError("a frame is named twice")
        return indices

    def _accounts(self) -> tuple[Ints, Ints]:
        if self._counts is None:
            self._counts = self._count()
        return self._counts

    def _count(self) -> tuple[Ints, Ints]:
        packets, wire = np.ones(len(self), np.int64), self.length
        if not self._aggregated:
            return packets, wire
        words = self._rows[self._slots, : VNET.itemsize].view(VNET)[:, 0]
        large = np.flatnonzero(words["gso_type"] & 0x7F)  # but the flag of ECN
        if not len(large):
            return packets, wire
        words, length = words[large], self.length[large]
        # hdr_len is a hint only: it is what lies in the buffer's first part. The TCP header, where
        # the checksum starts, tells its own length.
        tcp = np.minimum(words["csum_start"].astype(np.int64), length - 1 - _TCP_OFFSET)
        tcp = np.maximum(tcp, 0)
        offset = self._rows[self._slots[large], VNET.itemsize + tcp + _TCP_OFFSET] >> 4
        header = np.minimum(tcp + 4 * offset.astype(np.int64), np.minimum(length, _MOST_HEADER))
        size = np.maximum(words["gso_size"].astype(np.int64), _LEAST_SEGMENT)
        packets[large] = np.maximum(-(-(length - header) // size), 1)
        wire = wire.copy()
        wire[large] += (packets[large] - 1) * header
        return packets, wire


class NetDriver(Protocol):
    """The class that an author extends: ``serve``."""

    def serve(self, batch: Batch) -> None:
        """Forward, delay and drop frames, or keep them for later; called with one batch at a time.

        All that an exception leaves unanswered of this batch is dropped.
        """
