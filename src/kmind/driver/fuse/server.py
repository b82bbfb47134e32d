# SPDX-License-Identifier: Apache-2.0
"""The loop that reads requests of a connection, and hands those for data to a block driver.

Every request in flight has a slot: its header, and memory for its data. All slots are made, and
faulted in, before the first request is read; with none free nothing is read. So memory is
bounded. And no request is lost when the process is killed while the kernel copies one: a page that
is not there would be an error for the caller then, as nobody faults it in for a dying process
(fuse_copy_fill, fs/fuse/dev.c). Answers are sent from such memory too.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import select
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.driver.block import Batch, BlockDriver, Buffer, Op, Requests
from kmind.driver.fuse.protocol import IN_HEADER_BYTES, OUT_HEADER, REQUEST, Opcode
from kmind.driver.fuse.requests import NO_OP, SERVE, as_ops, decode
from kmind.driver.fuse.tree import FILE_NODE, Refused, Tree

__all__ = ["DiskServer"]

_HEAD = REQUEST.itemsize
_SHORT = OUT_HEADER.itemsize
_HEADER = struct.Struct("<IiQ").pack  # OUT_HEADER, faster for a single one
_WRITTEN = struct.Struct("<II").pack  # struct fuse_write_out
_WRITE = int(Op.WRITE)
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
        populate = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        # The heads come last: each data area starts on a page.
        mapped = mmap.mmap(-1, depth * (max_io + _HEAD), flags=populate)
        mapped.madvise(mmap.MADV_DONTFORK)  # nor write-protected by a fork
        memory = memoryview(mapped)
        heads = memory[depth * max_io :]
        self._heads = np.frombuffer(heads, REQUEST)
        self._data = [memory[slot * max_io : (slot + 1) * max_io] for slot in range(depth)]
        self._parts = [
            [heads[slot * _HEAD : (slot + 1) * _HEAD], self._data[slot]] for slot in range(depth)
        ]
        self._free = deque(range(depth))
        self._starved = self._stopped = self._ended = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) if wake is None else wake
        self._duty = duty
        self._due = 0.0 if duty else math.inf

    def run(self) -> None:
        """Serve; returns when the connection has ended, or ``stop`` was called."""
        now = time.monotonic
        while not (self._stopped or self._ended):
            if self._due <= now() and self._duty:
                self._due = self._duty()
            slots, sizes = self._receive()
            if slots:
                self._dispatch(np.array(slots), np.array(sizes))
            elif not self._ended:
                self._wait()

    def stop(self) -> None:
        """Let ``run`` return after the batch at hand; what is not answered stays in flight."""
        self._stopped = True
        os.eventfd_write(self._wake, 1)

    def _wait(self) -> None:
        self._starved = not self._free
        # Asked again after the flag is up: a slot may have become free in between.
        wanted = select.POLLIN if self._free else 0
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(self._descriptor, wanted)  # the connection's end is told in any case
        left = max(0.0, self._due - time.monotonic()) * 1000 if self._duty else None
        for ready, events in poll.poll(left):
            if ready == self._wake:
                os.eventfd_read(self._wake)
            elif not events & select.POLLIN:
                self._ended = True

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

        def send(indices: Sequence[int], error: int, data: Sequence[Buffer] | None) -> None:
            for place, index in enumerate(indices):
                if error or data is None:
                    self._reply(unique[index], error)
                else:
                    one = data[place]
                    if one and one is not memory[index]:
                        memory[index][:] = one
                        one = memory[index]
                    if ops[index] == _WRITE:
                        one = _WRITTEN(len(memory[index]), 0)
                    self._reply(unique[index], 0, one)
                self._release(slots[index])

        return Batch(requests, memory, send)

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
