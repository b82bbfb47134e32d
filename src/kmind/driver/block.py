# SPDX-License-Identifier: Apache-2.0
"""Block drivers: batches of requests, and the class that answers them, for any transport.

A request that ``serve`` does not answer stays in flight. It may be answered later, in any order
and from any thread, through the batch that it came in. An answer that was delayed is made at once,
and sent when its time has come.
"""

from __future__ import annotations

import errno
import mmap
import operator
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from kmind.driver.backing import Backing
from kmind.errors import KmindError, NotSupportedError

__all__ = [
    "LONGEST_DELAY_NS",
    "AnswerError",
    "Batch",
    "BlockDriver",
    "Buffer",
    "Deferral",
    "Op",
    "Requests",
    "Sender",
    "Setup",
    "Which",
]

LONGEST_DELAY_NS = 86_400 * 10**9
"""A request can wait for a day at most."""

Buffer = bytes | bytearray | memoryview
Which = int | Sequence[int] | npt.NDArray[Any]
"""Requests of a batch: one index, several, or a mask with one boolean for each request."""


class Op(IntEnum):
    """Operations on a block device; the numbers are those of ublk (linux/ublk_cmd.h)."""

    READ = 0
    WRITE = 1
    FLUSH = 2
    """All writes that were answered before have to survive a power cut."""
    DISCARD = 3
    """The range is not needed any more; any data may be read from it afterwards."""
    WRITE_ZEROES = 5
    """The range has to read as zeros; ``Batch.unmap`` says where its space may be freed."""


_READ = int(Op.READ)  # a member takes half a microsecond to look up in Python 3.11


class AnswerError(KmindError):
    """A driver gave an answer that cannot be right: twice, to nobody, too short or too long."""


class Sender(Protocol):
    """The transport's half of a batch: it sends what was checked."""

    def __call__(
        self, indices: Sequence[int], error: int, data: Sequence[Buffer] | None, /
    ) -> None:
        """Send an error number to each request, or 0 and what was read: ``data`` by index."""


class Deferral(Protocol):
    """The transport's half of a batch for what takes time; times are of time.monotonic_ns."""

    def hold(
        self,
        indices: Sequence[int],
        error: int,
        data: Sequence[Buffer] | None,
        due: Sequence[int],
        /,
    ) -> None:
        """Send what a Sender would, each answer when it is due; ``data`` may change afterwards."""

    def forward(
        self,
        indices: npt.NDArray[np.int64],
        backing: Backing,
        due: npt.NDArray[np.int64] | None,
        /,
    ) -> None:
        """Have a backing do these requests, and send the answers, none before it is due."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Columns of requests, within the device: ``offset`` and ``length`` are bytes.

    ``replayed`` marks what may have been done before, by a process that was killed, ``unmap``
    ranges whose space may be freed.
    """

    op: npt.NDArray[np.uint8]
    offset: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    replayed: npt.NDArray[np.bool_]
    unmap: npt.NDArray[np.bool_]

    def __getitem__(self, which: npt.NDArray[np.bool_ | np.int64] | slice) -> Requests:
        return Requests(
            self.op[which],
            self.offset[which],
            self.length[which],
            self.replayed[which],
            self.unmap[which],
        )


class Batch:
    """Some requests, each with its index from 0 on.

    The columns of ``requests`` are attributes. ``data[i]`` is memory of ``length[i]`` bytes: of a
    WRITE what is to be written, of a READ a place for what is read. It is another request's as
    soon as this one is answered. ``received`` is when they were read, by time.monotonic_ns.
    """

    def __init__(
        self,
        requests: Requests,
        data: Sequence[memoryview],
        send: Sender,
        deferral: Deferral | None = None,
    ) -> None:
        self.requests = requests
        self.op = requests.op
        self.offset = requests.offset
        self.length = requests.length
        self.replayed = requests.replayed
        self.unmap = requests.unmap
        self.data = data
        self.received = time.monotonic_ns()
        self._send = send
        self._deferral = deferral
        self._open = [True] * len(self.op)
        self._ops: list[int] = self.op.tolist()
        self._lengths: list[int] = self.length.tolist()
        self._lock = threading.Lock()
        # Both are there once they are needed: most drivers do neither.
        self._due: npt.NDArray[np.int64] | None = None
        self._backing: npt.NDArray[np.int8] | None = None  # index into _backings, or -1
        self._backings: list[Backing] = []
        self._begun = False

    def __len__(self) -> int:
        return len(self.op)

    @property
    def open(self) -> npt.NDArray[np.bool_]:
        """The mask of the requests that are not answered yet."""
        return np.array(self._open)

    def touches(self, ranges: Sequence[tuple[int, int]]) -> npt.NDArray[np.bool_]:
        """The mask of the requests that overlap one of these ranges, from a byte to before another.

        A FLUSH, which has no range, touches none.
        """
        first, end = np.array(ranges, np.int64).reshape(-1, 2).T
        starts, ends = self.offset[:, None], (self.offset + self.length)[:, None]
        hit = (starts < end) & (ends > first) & (starts < ends) & (first < end)
        touched: npt.NDArray[np.bool_] = np.logical_or.reduce(hit, axis=1)
        return touched

    def delay(self, which: Which, ns: npt.ArrayLike) -> None:
        """Send the answers to these requests when ``ns`` nanoseconds have passed since they came.

        One time for all, or one for each of ``which``. It answers nothing: `finish`, `fail` or
        `forward` makes the answer at once, before or after this in one ``serve``, and it is sent
        when its time has come. What takes longer by itself is not delayed. Of two delays of a
        request the later call counts.

        Raises AnswerError if a request is unknown, named twice or answered already, or if a time
        is below 0 or over a day.
        """
        self._deferrable()
        indices = self._indices(which)
        times = np.asarray(ns)
        if times.dtype.kind not in "iuf" or times.shape not in ((), (len(indices),)):
            raise AnswerError(f"a delay is a number of nanoseconds, or {len(indices)} of them")
        if not np.all((times >= 0) & (times <= LONGEST_DELAY_NS)):
            raise AnswerError("a delay is 0 to a day", hint="give nanoseconds")
        with self._lock:
            self._refuse_answered(indices)
            if self._due is None:
                self._due = np.zeros(len(self), np.int64)
            self._due[indices] = self.received + times.astype(np.int64)

    def forward(self, backing: Backing, which: Which | None = None) -> None:
        """Have a file or disk do these requests, or all that are open, at the same offsets.

        Their answers are the backing's own. It begins when ``serve`` returns, or at once if it has
        returned: until then `finish` and `fail` take its place, and a write that failed so has
        not been done.

        Raises AnswerError if a request is unknown, named twice or answered already.
        """
        self._deferrable()
        indices = self._indices(self.open if which is None else which)
        with self._lock:
            self._refuse_answered(indices)
            if self._backing is None:
                self._backing = np.full(len(self), -1, np.int8)
            if backing not in self._backings:
                self._backings.append(backing)
            self._backing[indices] = self._backings.index(backing)
            begun = self._begun
        if begun:
            self.begin()

    def begin(self) -> None:
        """Begin what is to be forwarded; the transport calls it when ``serve`` has returned."""
        with self._lock:
            self._begun = True
            plan, self._backing = self._backing, None
            if plan is None:
                return
            for index in np.flatnonzero(plan >= 0).tolist():
                self._open[index] = False
            due = self._due
        deferral = self._deferrable()
        for number, backing in enumerate(self._backings):
            indices = np.flatnonzero(plan == number)
            if len(indices):
                deferral.forward(indices, backing, None if due is None else due[indices])

    def finish(self, which: Which, results: Sequence[Buffer | None] | None = None) -> None:
        """Answer that requests were done.

        ``results`` has what each READ of ``which`` read, in the same order: bytes, which are
        copied into ``data``. None stands for what is there already, as no results do for all.

        Raises AnswerError: nothing was answered if a request is unknown, named twice or answered
        already; where data is too short or too long, that request alone got EIO.
        """
        indices = self._indices(which)
        if results is None:
            results = [None] * len(indices)
        if len(results) != len(indices):
            raise AnswerError(f"{len(results)} results for {len(indices)} requests")
        data: list[Buffer] = []
        wrong = []
        for index, result in zip(indices, results, strict=True):
            is_read = self._ops[index] == _READ
            if result is None:
                data.append(self.data[index] if is_read else b"")
                continue
            expected = self._lengths[index] if is_read else 0
            result = memoryview(result).cast("B")
            size = len(result)
            data.append(result)
            if size != expected:
                wrong.append((index, size, expected))
        self._close(indices)
        if not wrong:
            self._answer(indices, 0, data)
            return
        bad = {index for index, _, _ in wrong}
        right = [(i, one) for i, one in zip(indices, data, strict=True) if i not in bad]
        self._answer([i for i, _ in right], 0, [one for _, one in right])
        self._answer(sorted(bad), errno.EIO, None)
        index, size, expected = wrong[0]
        raise AnswerError(
            f"{size} bytes for request {index}, which takes {expected}",
            hint="it has failed with EIO",
        )

    def fail(self, which: Which, error: int) -> None:
        """Answer that requests have failed, with an error number.

        Raises AnswerError, and answers nothing, if a request is unknown, named twice or answered
        already, or if there is no such error.
        """
        number = operator.index(error)
        if number not in errno.errorcode:
            raise AnswerError(f"there is no error {number}", hint="take one of the module errno")
        indices = self._indices(which)
        self._close(indices)
        self._answer(indices, number, None)

    def fail_open(self, error: int) -> None:
        """Fail all that is not answered yet, whatever other threads are answering just now.

        It is not delayed, and what was to be forwarded is not begun.
        """
        with self._lock:
            indices = [index for index, is_open in enumerate(self._open) if is_open]
            self._open = [False] * len(self._open)
            self._backing = None
        self._send(indices, error, None)

    def _answer(self, indices: Sequence[int], error: int, data: Sequence[Buffer] | None) -> None:
        if self._due is None:
            self._send(indices, error, data)
        else:
            self._deferrable().hold(indices, error, data, self._due[indices].tolist())

    def _deferrable(self) -> Deferral:
        if self._deferral is None:
            raise NotSupportedError("this transport cannot delay or forward requests")
        return self._deferral

    def _indices(self, which: Which) -> list[int]:
        array = which if isinstance(which, np.ndarray) and which.ndim else np.atleast_1d(which)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "biu"):
            raise AnswerError("requests are named by indices, or by a mask")
        if array.dtype == bool:
            if array.size != len(self):
                raise AnswerError(f"a mask of {array.size} for a batch of {len(self)}")
            return np.flatnonzero(array).tolist()
        indices: list[int] = array.tolist()
        if indices and not 0 <= min(indices) <= max(indices) < len(self):
            raise AnswerError(f"no request {indices} in a batch of {len(self)}")
        if len(set(indices)) != len(indices):
            raise AnswerError(f"a request is named twice: {indices}")
        return indices

    def _close(self, indices: Sequence[int]) -> None:
        """Mark requests as answered: all of them, or none if one of them cannot be."""
        with self._lock:
            self._refuse_answered(indices)
            for index in indices:
                self._open[index] = False
            if self._backing is not None:
                self._backing[indices] = -1

    def _refuse_answered(self, indices: Sequence[int]) -> None:
        for index in indices:
            if not self._open[index]:
                raise AnswerError(f"request {index} is answered already")


@dataclass(frozen=True)
class Setup:
    """Inputs of a driver, given to ``open``.

    ``params`` are the module's parameters by name, ``memory`` is what the manifest's
    ``driver.memory`` asks for: it outlives the process, and the next one finds it as it was left.
    """

    params: Mapping[str, int | float | bool | str] = field(default_factory=dict)
    memory: mmap.mmap | None = None


class BlockDriver:
    """The class that an author extends: ``size`` in bytes, a multiple of 4096, and ``serve``.

    READ and WRITE always come. ``operations`` names what else is served: without FLUSH, what was
    answered is taken to be safe; without WRITE_ZEROES and DISCARD, they are refused.
    """

    size: int
    operations: ClassVar[frozenset[Op]] = frozenset()

    def open(self, setup: Setup) -> None:
        """Get ready, and set ``size``; called once, before the first request."""

    def serve(self, batch: Batch) -> None:
        """Answer requests, or keep them for later; called with one batch after another.

        All that an exception leaves unanswered of this batch fails with EIO.
        """
        raise NotImplementedError
