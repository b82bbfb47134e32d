# SPDX-License-Identifier: Apache-2.0
"""One io_uring: entries go to the kernel, and completions come back, as slices of arrays.

Sources: io_uring_setup(2), io_uring_enter(2); the kernel's io_uring/io_uring.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import weakref
from types import TracebackType

import numpy as np
import numpy.typing as npt

from kmind.errors import KmindError, RingError, UsageError
from kmind.queue.order import fence
from kmind.uring import _syscall, prepare
from kmind.uring._setup import set_up
from kmind.uring.layout import (
    GETEVENTS_ARG,
    SQE,
    TIMESPEC,
    Enter,
    Register,
    Setup,
    SqeFlag,
    SqFlag,
)

__all__ = ["Ring"]

_WORD = 0xFFFFFFFF
_CLOSE_S = 1.0
_LONGEST_S = 86_400.0
_GETEVENTS = int(Enter.GETEVENTS)
_TIMED = int(Enter.GETEVENTS | Enter.EXT_ARG)
_OVERFLOW = int(SqFlag.CQ_OVERFLOW)

_rings: weakref.WeakSet[Ring] = weakref.WeakSet()


class Ring:
    """A ring with room for ``entries`` submissions, rounded up to a power of two.

    One thread may use it: that which makes it, or which enables a ``disabled`` one. A child that is
    forked finds it closed. ``completions`` is the size of the completion ring, twice the other's
    unless told. ``big_sqe`` makes entries of 128 bytes, ``big_cqe`` completions of 32; ``sqe`` and
    ``cqe`` are their dtypes, and ``flags`` those that the ring was made with.

    Raises NotSupportedError where the kernel, or a filter, refuses io_uring; RingError where memory
    or descriptors are lacking.
    """

    def __init__(
        self,
        entries: int,
        *,
        completions: int = 0,
        big_sqe: bool = False,
        big_cqe: bool = False,
        disabled: bool = False,
    ) -> None:
        self._fd = -1
        asked = {Setup.SQE128: big_sqe, Setup.CQE32: big_cqe, Setup.R_DISABLED: disabled}
        self._memory = memory = set_up(
            entries, completions, [flag for flag in asked if asked[flag]]
        )
        self._fd, self.flags = memory.fd, memory.flags
        self.entries, self.completions = memory.entries, memory.completions
        self.sqe, self.cqe = memory.sqe, memory.cqe
        # Copied, for each dot costs in the fast path.
        self._words, self._sqes, self._cqes = memory.words, memory.sqes, memory.cqes
        self._sq_head, self._sq_tail, self._sq_flags = memory.sq
        self._cq_head, self._cq_tail, self._cq_lost = memory.cq
        self._tail: int = self._words[self._sq_tail]
        self._head: int = self._words[self._cq_head]
        self.overflows = 0
        """Times that more completions were there than the ring holds.

        They wait in the kernel, none is lost: they come with the next `submit` that finds room.
        """
        self._times = np.zeros(1, TIMESPEC)
        self._argument = np.zeros(1, GETEVENTS_ARG)
        self._argument["ts"] = _syscall.address_of(self._times)
        self._argument_at = _syscall.address_of(self._argument)
        _rings.add(self)

    # State. The kernel's own words are what counts: an exception out of a signal's handler may end
    # a submit before what the system call returned was looked at.

    @property
    def fd(self) -> int:
        """Its descriptor, readable when completions are there; RingError once closed."""
        if self._fd < 0:
            raise _closed()
        return self._fd

    @property
    def pending(self) -> int:
        """Entries that were pushed, and are not with the kernel yet."""
        if self._fd < 0:
            raise _closed()
        head: int = self._words[self._sq_head]
        return (self._tail - head) & _WORD

    @property
    def in_flight(self) -> int:
        """Entries that are with the kernel, without a completion in the ring as yet.

        Each entry has one completion, as long as it is made by `kmind.uring.prepare`.
        """
        if self._fd < 0:
            raise _closed()
        taken: int = self._words[self._sq_head]
        done: int = self._words[self._cq_tail]
        return (taken - done) & _WORD

    @property
    def ready(self) -> int:
        """Completions that wait in the ring."""
        if self._fd < 0:
            raise _closed()
        tail: int = self._words[self._cq_tail]
        return (tail - self._head) & _WORD

    # The fast path.

    def push(self, entries: prepare.Entries) -> int:
        """Copy entries into the ring; return how many had room, from the first on.

        They are made by `kmind.uring.prepare`, and go to the kernel with the next `submit`. Those
        of 64 bytes fit a ring of 128, too.
        """
        count = min(len(entries), self.entries - self.pending)
        if not count:
            return 0
        words = self._as_words(entries)
        start = self._tail & (self.entries - 1)
        first = min(count, self.entries - start)
        self._sqes[start : start + first] = words[:first]
        if first < count:
            self._sqes[: count - first] = words[first:count]
        self._tail = (self._tail + count) & _WORD
        # No barrier: the kernel reads all of this in this thread's own system call.
        self._words[self._sq_tail] = self._tail
        return count

    def _as_words(self, entries: prepare.Entries) -> npt.NDArray[np.uint64]:
        dtype = entries.dtype
        if dtype is not self.sqe and dtype != self.sqe:
            if dtype != SQE:
                raise UsageError(
                    f"the ring has entries of {self.sqe.itemsize} bytes, not {dtype.itemsize}",
                    hint="make them by kmind.uring.prepare; of 128 bytes, with big_sqe=True",
                )
            wide = np.zeros((len(entries), self._sqes.shape[1]), np.uint64)
            wide[:, : SQE.itemsize // 8] = _whole(entries)
            return wide
        return _whole(entries)

    def submit(self, wait: int = 0, timeout_s: float = 0.0) -> int:
        """Hand over what was pushed; return the number of completions that wait in the ring.

        With ``wait`` it comes back when so many wait, or ``timeout_s`` have passed. Only here do
        completions come into the ring, so one that polls calls it, too. Signals are handled, and do
        not end it unless their handler raises. RingError: the kernel refused, or it had to drop
        completions for lack of memory.
        """
        if not 0 <= wait <= self.completions:
            raise UsageError(f"cannot wait for {wait} of {self.completions} completions")
        if not 0 <= timeout_s <= _LONGEST_S:
            raise UsageError(f"cannot wait {timeout_s} s", hint="give a time up to a day")
        deadline = time.monotonic() + timeout_s if wait else 0.0
        while True:
            taken = self._enter(wait, deadline)
            if taken < 0 and taken not in (-errno.EINTR, -errno.ETIME):
                return self._refused(-taken)
            if self._words[self._sq_flags] & _OVERFLOW:
                self.overflows += 1
                return self.ready
            if taken > 0 and self.pending:
                continue  # the kernel stopped half-way
            ready = self.ready
            if ready >= wait or time.monotonic() >= deadline:
                return ready

    def _enter(self, wait: int, deadline: float) -> int:
        if not wait or self.ready >= wait:
            return _syscall.enter(self._fd, self.pending, 0, _GETEVENTS, 0, 0)
        left = max(deadline - time.monotonic(), 0.0)
        self._times[0] = (int(left), int(left % 1 * 1e9))
        size = GETEVENTS_ARG.itemsize
        return _syscall.enter(self._fd, self.pending, wait, _TIMED, self._argument_at, size)

    def _refused(self, number: int) -> int:
        # EBUSY, EAGAIN: no room for more. Completions that wait are the way out.
        if number in (errno.EBUSY, errno.EAGAIN) and self.ready:
            return self.ready
        if number == errno.EBADR:
            lost = self._words[self._cq_lost]
            raise RingError(
                f"the kernel had no memory for {lost} completions, and dropped them",
                hint="have fewer requests in flight, or a larger completion ring",
            )
        raise _syscall.error_from(number, f"io_uring: cannot submit {self.pending} entries")

    def peek(self, limit: int | None = None) -> prepare.Entries:
        """The completions that wait, oldest first: a view, valid until `release`.

        One call returns what lies in one piece, so after the ring's end comes a second call.
        """
        start = self._head & (self.completions - 1)
        count = min(self.ready, self.completions - start)
        if limit is not None:
            count = min(count, limit)
        fence()
        return self._cqes[start : start + count]

    def release(self, count: int) -> None:
        """Give the places of the oldest ``count`` completions back to the kernel."""
        if not 0 <= count <= self.ready:
            raise UsageError(f"cannot release {count} of {self.ready} completions")
        self._head = (self._head + count) & _WORD
        fence()
        self._words[self._cq_head] = self._head

    def reap(self) -> prepare.Entries:
        """All completions that wait, as a copy, and their places given back."""
        taken = self.peek().copy()
        self.release(len(taken))
        if self.ready:  # the ring's end lay between
            rest = self.peek()
            taken = np.concatenate([taken, rest])
            self.release(len(rest))
        return taken

    # Life.

    def enable(self) -> None:
        """Start a ring that was made ``disabled``; this thread is the one that uses it."""
        _syscall.register(self.fd, Register.ENABLE_RINGS, None, 0)

    def close(self) -> None:
        """Cancel what is in flight, wait for its end for a second at most, give all back.

        Entries that were not submitted are dropped. After that second the kernel may still write
        into the buffers of requests that cannot be cancelled. Safe to repeat.
        """
        if self._fd < 0:
            return
        # Another thread than the ring's own cannot cancel; the kernel does, as the ring goes.
        with contextlib.suppress(KmindError):
            self._cancel_all()
        self._forget()

    def _cancel_all(self) -> None:
        self._tail = self._words[self._sq_tail] = self._words[self._sq_head]
        if not self.in_flight:
            return
        # A restricted ring takes nothing without the flag.
        self.push(prepare.cancel_all(0, flags=SqeFlag.FIXED_FILE))
        deadline = time.monotonic() + _CLOSE_S
        while (self.pending or self.in_flight) and time.monotonic() < deadline:
            self.release(self.ready)
            self.submit(1, max(deadline - time.monotonic(), 0.0))

    def _forget(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        self._memory.release()
        _rings.discard(self)

    def __enter__(self) -> Ring:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _closed() -> RingError:
    return RingError("the ring is closed", hint="a fork closes it in the child")


def _whole(entries: prepare.Entries) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(entries).view(np.uint64).reshape(len(entries), -1)


def _forget_all() -> None:
    # In a child after fork: the ring is the parent's, and must not outlive it here.
    for ring in list(_rings):
        ring._forget()


os.register_at_fork(after_in_child=_forget_all)
