# SPDX-License-Identifier: Apache-2.0
"""The loop that reads requests of a connection, and hands those for data to a block driver.

Every request in flight has a slot: its header, and memory for its data. All slots are made, and
faulted in, before the first request is read; with none free nothing is read. So memory is
bounded. And no request is lost when the process is killed while the kernel copies one: a page that
is not there would be an error for the caller then, as nobody faults it in for a dying process
(fuse_copy_fill, fs/fuse/dev.c). Answers are sent from such memory too, and forwarded requests
move their data from and to it.
"""

from __future__ import annotations

import errno
import heapq
import math
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kmind.driver.backing import Backing
from kmind.driver.block import Batch, BlockDriver, Buffer, Op, Requests
from kmind.driver.forward import Forwarder, PlainForwarder, make_forwarder
from kmind.driver.fuse.protocol import IN_HEADER_BYTES, OUT_HEADER, REQUEST, Opcode
from kmind.driver.fuse.requests import NO_OP, SERVE, as_ops, decode
from kmind.driver.fuse.tree import FILE_NODE, Refused, Tree
from kmind.driver.precise import POLLIN, set_timer_slack
from kmind.uring import Buffers

__all__ = ["DiskServer"]

_HEAD = REQUEST.itemsize
_SHORT = OUT_HEADER.itemsize
_HEADER = struct.Struct("<IiQ").pack  # OUT_HEADER, faster for a single one
_WRITTEN = struct.Struct("<II").pack  # struct fuse_write_out
_READ, _WRITE = int(Op.READ), int(Op.WRITE)
_DRAIN_NS = 10**9  # for what is in flight at a backing when the server is stopped
_SILENT = {Opcode.FORGET, Opcode.BATCH_FORGET}  # these are never answered
_ENDED = {errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN}


class DiskServer:
    """Serves a driver as the one file of a FUSE connection.

    ``run`` serves until the connection ends or ``stop`` is called, from any thread. ``report``
    gets each exception of the driver. ``duty`` is other work of the thread, done between two
    batches: it returns the time of ``time.monotonic`` when it is due again. ``wake`` is an eventfd,
    made here unless it is given.
    """

    def __init__(
        self,
        driver: BlockDriver,
        descriptor: int,
        *,
        max_io: int = 1 << 20,
        depth: int = 64,
        report: Callable[[Exception], None] = lambda _: None,
        duty: Callable[[], float] | None = None,
        wake: int | None = None,
    ) -> None:
        self._driver = driver
        self._tree = Tree(driver.size)
        self._descriptor = descriptor
        self._report = report
        self._max_io = max_io
        self._buffers = Buffers(depth, max_io)
        rows = Buffers(1, depth * _HEAD)[0]
        heads = rows.data
        self._heads = rows.view(REQUEST)
        self._data = [row.data for row in self._buffers.rows]
        self._parts = [
            [heads[slot * _HEAD : (slot + 1) * _HEAD], self._data[slot]] for slot in range(depth)
        ]
        self._free = deque(range(depth))
        self._starved = self._stopped = self._ended = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) if wake is None else wake
        self._duty = duty
        self._due = 0.0 if duty else math.inf
        self._thread = -1
        self._watched = (self._wake, descriptor)
        self._forwarder: Forwarder = PlainForwarder(self._buffers, self._watched)
        self._prepared = False
        self._lock = threading.Lock()  # of the next two
        self._held: list[_Held] = []  # a heap: what is due first comes first
        self._asked: list[Callable[[], None]] = []  # by other threads, of this one
        self._at_backing: dict[int, _Forwarded] = {}

    def prepare(self, backings: Sequence[Backing] = ()) -> None:
        """Make what forwarding needs, in the thread that calls ``run`` later.

        Without it that is made when a request is first forwarded: too late for a process that has
        given up its privileges by then.
        """
        self._forwarder = make_forwarder(self._buffers, self._watched, backings)
        self._prepared = True

    def run(self) -> None:
        """Serve; returns when the connection has ended, or ``stop`` was called."""
        set_timer_slack()
        self._thread = threading.get_ident()
        try:
            while not (self._stopped or self._ended):
                if self._duty and self._due <= time.monotonic():
                    self._due = self._duty()
                slots, sizes = self._receive()
                if slots:
                    self._dispatch(np.array(slots), np.array(sizes))
                self._advance()
                # With nothing at a backing, answers may have brought new requests by now.
                if not (slots or self._ended) or self._forwarder.in_flight:
                    self._wait()
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

    def _wait(self) -> None:
        self._starved = not self._free
        # Asked again after the flag is up: a slot may have become free in between.
        wanted = POLLIN if self._free else 0
        with self._lock:
            if self._asked:
                return
            due = self._held[0].due if self._held else math.inf
        due = min(due, self._due * 1e9)
        timeout = None if due == math.inf else int(due) - time.monotonic_ns()
        # The connection's end is told in any case.
        woken, events = self._forwarder.wait((POLLIN, wanted), timeout)
        if woken:
            os.eventfd_read(self._wake)
        if events and not events & POLLIN:
            self._ended = True

    # What takes time: forwarded requests, and answers that are held.

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
            error, data = flight.answer(result, self._data[slot])
            if flight.due:
                now = now or time.monotonic_ns()
                if flight.due > now:
                    with self._lock:
                        heapq.heappush(
                            self._held, _Held(flight.due, slot, flight.unique, error, data)
                        )
                    continue
            self._reply(flight.unique, error, data)
            self._release(slot)

    def _send_held(self, until: float) -> None:
        while True:
            with self._lock:
                if not self._held or self._held[0].due > until:
                    return
                held = heapq.heappop(self._held)
            self._reply(held.unique, held.error, held.data)
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
                self._reply(flight.unique, errno.EIO)
                self._release(slot)
            self._report(error)

    def _receive(self) -> tuple[list[int], list[int]]:
        """Read what is there, as far as there are slots: the slots, and the bytes in each."""
        slots: list[int] = []
        sizes: list[int] = []
        read, descriptor, parts, free = os.readv, self._descriptor, self._parts, self._free
        while free:
            slot = free.popleft()
            try:
                sizes.append(read(descriptor, parts[slot]))
                slots.append(slot)
            except OSError as error:
                free.appendleft(slot)
                if error.errno == errno.EAGAIN:
                    break
                if error.errno in _ENDED:
                    self._ended = True
                    break
                if error.errno != errno.ENOENT:  # the request went away while it was read
                    raise
        return slots, sizes

    def _dispatch(self, slots: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> None:
        heads = self._heads[slots]
        # A length that is not what was read: nothing in the header is believed.
        whole = (heads["len"] == sizes) & (sizes >= IN_HEADER_BYTES)
        data = whole & (as_ops(heads["opcode"]) != NO_OP) & (heads["nodeid"] == FILE_NODE)
        if not data.all():
            for row in np.flatnonzero(~data):
                self._answer_other(int(slots[row]), int(sizes[row]), bool(whole[row]))
            slots, sizes, heads = slots[data], sizes[data], heads[data]
        if len(slots):
            self._serve(slots, sizes, heads)

    def _serve(
        self, slots: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], heads: npt.NDArray[Any]
    ) -> None:
        driver = self._driver
        requests, verdict = decode(
            heads, sizes, size=driver.size, max_io=self._max_io, operations=driver.operations
        )
        if verdict is not None:
            at_once = verdict != SERVE
            for row in np.flatnonzero(at_once):
                self._reply(int(heads["unique"][row]), int(verdict[row]))
                self._release(int(slots[row]))
            slots, heads, requests = slots[~at_once], heads[~at_once], requests[~at_once]
            if not len(slots):
                return
        batch = self._batch(slots.tolist(), heads["unique"].tolist(), requests)
        try:
            driver.serve(batch)
            batch.begin()
        except Exception as error:  # an author's code: anything may come
            batch.fail_open(errno.EIO)
            self._report(error)

    def _batch(self, slots: list[int], unique: list[int], requests: Requests) -> Batch:
        ops = requests.op.tolist()
        all_data = self._data
        memory = [
            all_data[slot][: length if op <= _WRITE else 0]
            for slot, length, op in zip(slots, requests.length.tolist(), ops, strict=True)
        ]

        answers = _Answers(self, slots, unique, requests, memory)
        return Batch(requests, memory, answers.send, answers)

    def _answer_other(self, slot: int, size: int, whole: bool) -> None:
        head = self._heads[slot]
        opcode, unique = int(head["opcode"]), int(head["unique"])
        if size < IN_HEADER_BYTES or opcode in _SILENT:
            pass  # there is nobody to answer
        elif not whole:
            self._reply(unique, errno.EIO)
        else:
            memory, data = self._parts[slot]
            body = (bytes(memory) + bytes(data[: max(0, size - _HEAD)]))[IN_HEADER_BYTES:size]
            try:
                answer = self._tree.answer(opcode, int(head["nodeid"]), body)
            except Refused as refused:
                self._reply(unique, refused.errno)
            else:
                self._reply(unique, 0, answer)
        self._release(slot)

    def _reply(self, unique: int, error: int, data: Buffer = b"") -> None:
        try:
            os.writev(self._descriptor, (_HEADER(_SHORT + len(data), -error, unique), data))
        except OSError as refused:
            if refused.errno in _ENDED:
                self._ended = True
            elif refused.errno != errno.ENOENT:  # ENOENT: the request is gone, by an abort say
                # The answer was refused: the caller may not wait for another one.
                with suppress(OSError):
                    os.write(self._descriptor, _HEADER(_SHORT, -errno.EIO, unique))

    def _release(self, slot: int) -> None:
        self._free.append(slot)
        if self._starved:
            self._starved = False
            os.eventfd_write(self._wake, 1)


class _Held(NamedTuple):
    """An answer that waits for its time."""

    due: int
    slot: int  # one answer a slot: so nothing after it is ever compared
    unique: int
    error: int
    data: Buffer


class _Forwarded(NamedTuple):
    """A request that a backing does."""

    unique: int
    op: int
    length: int
    due: int

    def answer(self, result: int, memory: memoryview) -> tuple[int, Buffer]:
        """Error and data of the answer."""
        if result < 0:
            return (-result if -result in errno.errorcode else errno.EIO), b""
        if self.op > _WRITE:
            return 0, b""
        if result != self.length:  # a file that has shrunk, or is full
            return errno.EIO, b""
        return 0, memory[:result] if self.op == _READ else _WRITTEN(result, 0)


class _Answers:
    """One batch's way back: its requests with their slots."""

    __slots__ = ("_memory", "_ops", "_requests", "_server", "_slots", "_unique")

    def __init__(
        self,
        server: DiskServer,
        slots: list[int],
        unique: list[int],
        requests: Requests,
        memory: list[memoryview],
    ) -> None:
        self._server = server
        self._slots = slots
        self._unique = unique
        self._requests = requests
        self._memory = memory
        self._ops: list[int] = requests.op.tolist()

    def send(self, indices: Sequence[int], error: int, data: Sequence[Buffer] | None) -> None:
        """As a Sender."""
        reply, release = self._server._reply, self._server._release
        for place, index in enumerate(indices):
            if error or data is None:
                reply(self._unique[index], error)
            else:
                reply(self._unique[index], 0, self._made(index, data[place]))
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
            held.append(_Held(due[place], self._slots[index], self._unique[index], error, answer))
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
            _Forwarded(self._unique[index], *row)
            for index, row in zip(numbers, zip(*columns, strict=True), strict=True)
        ]
        slots = np.array(self._slots)[indices]
        server = self._server
        server._in_thread(lambda: server._forward(slots, flights, requests, backing))

    def _made(self, index: int, data: Buffer) -> Buffer:
        memory = self._memory[index]
        if self._ops[index] == _WRITE:
            return _WRITTEN(len(memory), 0)
        if data and data is not memory:
            memory[:] = data
            return memory
        return data
