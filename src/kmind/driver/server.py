# SPDX-License-Identifier: Apache-2.0
"""The loop that serves a block driver, whichever transport its requests come by.

Every request in flight has a slot, with memory for its data: all of it is there, and faulted in,
before the first request comes. So memory is bounded. Answers that wait for their time are held
here, and forwarded requests move their data from and to the slots' memory.
"""

from __future__ import annotations

import errno
import heapq
import math
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kmind.driver.backing import Backing
from kmind.driver.block import Batch, BlockDriver, Buffer, Op, Requests
from kmind.driver.forward import Forwarder, PlainForwarder
from kmind.driver.precise import set_timer_slack
from kmind.uring import Buffers

__all__ = ["BlockServer", "Chore", "make_wake"]

_READ, _WRITE = int(Op.READ), int(Op.WRITE)
_DRAIN_NS = 10**9  # for what is in flight at a backing when the server is stopped


def make_wake() -> int:
    """An eventfd, by which a thread that waits is woken."""
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


@dataclass(frozen=True)
class Chore:
    """Other work of a serving thread, done between two batches.

    ``do`` returns the time of ``time.monotonic`` when it is due again. ``wake`` is the eventfd that
    wakes the thread, for one that may make no descriptors any more.
    """

    do: Callable[[], float]
    wake: int = field(default_factory=make_wake)


class BlockServer(ABC):
    """Serves a driver; a transport says how requests come and answers go.

    ``run`` serves until the transport ends or ``stop`` is called, from any thread. ``report`` gets
    each exception of the driver, ``chore`` is what else the thread has to do. ``watched`` are
    descriptors that the forwarder's wait looks at, after ``_wake``.
    """

    def __init__(
        self,
        driver: BlockDriver,
        buffers: Buffers,
        watched: Sequence[int] = (),
        *,
        report: Callable[[Exception], None],
        chore: Chore | None,
    ) -> None:
        self._driver = driver
        self._report = report
        self._buffers = buffers
        self._data = [row.data for row in buffers.rows]
        self._stopped = self._ended = False
        self._wake = chore.wake if chore else make_wake()
        self._chore = chore
        self._due = 0.0 if chore else math.inf
        self._thread = -1
        self._watched = (self._wake, *watched)
        self._forwarder: Forwarder = PlainForwarder(buffers, self._watched)
        self._prepared = False
        self._lock = threading.Lock()  # of the next two
        self._held: list[_Held] = []  # a heap: what is due first comes first
        self._asked: list[Callable[[], None]] = []  # by other threads, of this one
        self._at_backing: dict[int, _Forwarded] = {}

    # The transport's part. A request's name is what answers are sent to.

    @abstractmethod
    def _take(self) -> bool:
        """Hand requests that have come to `_serve_batch`; False if there were none."""

    @abstractmethod
    def _wait(self, timeout_ns: int | None) -> None:
        """Wait for requests, for ``_wake``, and for the forwarder; it may end early."""

    @abstractmethod
    def _reply(self, name: int, error: int, data: Buffer = b"") -> None:
        """Send an answer, from any thread; ``data`` is what was read, or `_written` made it."""

    @abstractmethod
    def _release(self, slot: int) -> None:
        """A request is answered: its slot is free, from any thread."""

    @abstractmethod
    def _make_forwarder(self, backings: Sequence[Backing]) -> Forwarder:
        """Make the way to backings."""

    @abstractmethod
    def _written(self, length: int) -> Buffer:
        """The data of the answer to a write."""

    def prepare(self, backings: Sequence[Backing] = ()) -> None:
        """Make what forwarding needs, in the thread that calls ``run`` later.

        Without it that is made when a request is first forwarded: too late for a process that has
        given up its privileges by then.
        """
        self._forwarder = self._make_forwarder(backings)
        self._prepared = True

    def run(self) -> None:
        """Serve; returns when the transport has ended, or ``stop`` was called."""
        set_timer_slack()
        self._thread = threading.get_ident()
        try:
            while not (self._stopped or self._ended):
                if self._chore and self._due <= time.monotonic():
                    self._due = self._chore.do()
                came = self._take()
                self._advance()
                # With nothing at a backing, answers may have brought new requests by now.
                if not (came or self._ended) or self._forwarder.in_flight:
                    self._pause()
            if not self._ended:
                self._drain()
        finally:
            self._forwarder.close()

    def stop(self) -> None:
        """Let ``run`` return after the batch at hand; what is not answered stays in flight.

        What is at a backing is waited for, a second at most. Answers that wait for their time are
        sent at once, so that nobody has to do their requests again.
        """
        self._stopped = True
        os.eventfd_write(self._wake, 1)

    def _serve_batch(
        self, slots: npt.NDArray[np.int64], names: list[int], requests: Requests
    ) -> None:
        batch = self._batch(slots.tolist(), names, requests)
        try:
            self._driver.serve(batch)
            batch.begin()
        except Exception as error:  # an author's code: anything may come
            batch.fail_open(errno.EIO)
            self._report(error)

    def _batch(self, slots: list[int], names: list[int], requests: Requests) -> Batch:
        ops = requests.op.tolist()
        all_data = self._data
        memory = [
            all_data[slot][: length if op <= _WRITE else 0]
            for slot, length, op in zip(slots, requests.length.tolist(), ops, strict=True)
        ]

        answers = _Answers(self, slots, names, requests, memory)
        return Batch(requests, memory, answers.send, answers)

    def _pause(self) -> None:
        with self._lock:
            if self._asked:
                return
            due = self._held[0].due if self._held else math.inf
        due = min(due, self._due * 1e9)
        self._wait(None if due == math.inf else int(due) - time.monotonic_ns())

    def _advance(self) -> None:
        """Do what other threads asked for, and send what is done and due."""
        if self._asked:
            with self._lock:
                asked, self._asked = self._asked, []
            for one in asked:
                one()
        self._send_results()
        if self._held:
            self._send_held(time.monotonic_ns())

    def _send_results(self) -> None:
        now = 0
        for slot, result in zip(*self._forwarder.results(), strict=True):
            flight = self._at_backing.pop(slot)
            error, data = self._answer(flight, result, slot)
            if flight.due:
                now = now or time.monotonic_ns()
                if flight.due > now:
                    self._hold([_Held(flight.due, slot, flight.name, error, data)])
                    continue
            self._reply(flight.name, error, data)
            self._release(slot)

    def _answer(self, flight: _Forwarded, result: int, slot: int) -> tuple[int, Buffer]:
        """Error and data of the answer to a request that a backing did."""
        if result < 0:
            return (-result if -result in errno.errorcode else errno.EIO), b""
        if flight.op > _WRITE:
            return 0, b""
        if result != flight.length:  # a file that has shrunk, or is full
            return errno.EIO, b""
        return 0, self._data[slot][:result] if flight.op == _READ else self._written(result)

    def _send_held(self, until: float) -> None:
        while True:
            with self._lock:
                if not self._held or self._held[0].due > until:
                    return
                held = heapq.heappop(self._held)
            self._reply(held.name, held.error, held.data)
            self._release(held.slot)

    def _drain(self) -> None:
        deadline = time.monotonic_ns() + _DRAIN_NS
        self._advance()
        while self._forwarder.in_flight and (left := deadline - time.monotonic_ns()) > 0:
            self._forwarder.wait((0, 0), left)
            self._send_results()
        self._send_held(float("inf"))

    def _hold(self, held: Sequence[_Held]) -> None:
        with self._lock:
            for one in held:
                heapq.heappush(self._held, one)
            first = self._held[0] if self._held else None
        if any(one is first for one in held) and threading.get_ident() != self._thread:
            os.eventfd_write(self._wake, 1)

    def _in_thread(self, do: Callable[[], None]) -> None:
        """Do it now if this is the serving thread, or have that do it soon."""
        if threading.get_ident() == self._thread:
            do()
            return
        with self._lock:
            self._asked.append(do)
        os.eventfd_write(self._wake, 1)

    def _forward(
        self, slots: npt.NDArray[np.int64], flights: Sequence[_Forwarded],
        requests: Requests, backing: Backing,
    ) -> None:  # fmt: skip
        try:
            if not self._prepared:
                self.prepare()
            self._at_backing.update(zip(slots.tolist(), flights, strict=True))
            self._forwarder.start(slots, requests, backing)
        except Exception as error:
            for slot, flight in zip(slots.tolist(), flights, strict=True):
                self._at_backing.pop(slot, None)
                self._reply(flight.name, errno.EIO)
                self._release(slot)
            self._report(error)


class _Held(NamedTuple):
    """An answer that waits for its time."""

    due: int
    slot: int  # one answer a slot: so nothing after it is ever compared
    name: int
    error: int
    data: Buffer


class _Forwarded(NamedTuple):
    """A request that a backing does."""

    name: int
    op: int
    length: int
    due: int


class _Answers:
    """One batch's way back: its requests with their slots."""

    __slots__ = ("_memory", "_names", "_ops", "_requests", "_server", "_slots")

    def __init__(
        self,
        server: BlockServer,
        slots: list[int],
        names: list[int],
        requests: Requests,
        memory: list[memoryview],
    ) -> None:
        self._server = server
        self._slots = slots
        self._names = names
        self._requests = requests
        self._memory = memory
        self._ops: list[int] = requests.op.tolist()

    def send(self, indices: Sequence[int], error: int, data: Sequence[Buffer] | None) -> None:
        """As a Sender."""
        reply, release = self._server._reply, self._server._release
        for place, index in enumerate(indices):
            if error or data is None:
                reply(self._names[index], error)
            else:
                reply(self._names[index], 0, self._made(index, data[place]))
            release(self._slots[index])

    def hold(
        self,
        indices: Sequence[int],
        error: int,
        data: Sequence[Buffer] | None,
        due: Sequence[int],
    ) -> None:
        """As a Deferral."""
        held = []
        for place, index in enumerate(indices):
            answer = b"" if error or data is None else self._made(index, data[place])
            held.append(_Held(due[place], self._slots[index], self._names[index], error, answer))
        self._server._hold(held)

    def forward(
        self,
        indices: npt.NDArray[np.int64],
        backing: Backing,
        due: npt.NDArray[np.int64] | None,
    ) -> None:
        """As a Deferral."""
        requests = self._requests[indices]
        numbers = indices.tolist()
        times = [0] * len(numbers) if due is None else due.tolist()
        columns = (requests.op.tolist(), requests.length.tolist(), times)
        flights = [
            _Forwarded(self._names[index], *row)
            for index, row in zip(numbers, zip(*columns, strict=True), strict=True)
        ]
        slots = np.array(self._slots)[indices]
        server = self._server
        server._in_thread(lambda: server._forward(slots, flights, requests, backing))

    def _made(self, index: int, data: Buffer) -> Buffer:
        memory = self._memory[index]
        if self._ops[index] == _WRITE:
            return self._server._written(len(memory))
        if data and data is not memory:
            memory[:] = data
            return memory
        return data
