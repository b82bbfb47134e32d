# SPDX-License-Identifier: Apache-2.0
"""A block driver served as the one file of a FUSE connection.

With no slot free nothing is read. And no request is lost when the process is killed while the
kernel copies one: a page that is not there would be an error for the caller then, as nobody faults
it in for a dying process (fuse_copy_fill, fs/fuse/dev.c). Answers are sent from such memory too.
"""

from __future__ import annotations

import errno
import os
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.driver.backing import Backing
from kmind.driver.block import BlockDriver, Buffer
from kmind.driver.forward import Forwarder, make_forwarder
from kmind.driver.fuse.protocol import IN_HEADER_BYTES, OUT_HEADER, REQUEST, Opcode
from kmind.driver.fuse.requests import NO_OP, SERVE, as_ops, decode
from kmind.driver.fuse.tree import FILE_NODE, Refused, Tree
from kmind.driver.precise import POLLIN
from kmind.driver.server import BlockServer, Chore
from kmind.uring import Buffers

__all__ = ["DiskServer"]

_HEAD = REQUEST.itemsize
_SHORT = OUT_HEADER.itemsize
_HEADER = struct.Struct("<IiQ").pack  # OUT_HEADER, faster for a single one
_WRITTEN = struct.Struct("<II").pack  # struct fuse_write_out
_SILENT = {Opcode.FORGET, Opcode.BATCH_FORGET}  # these are never answered
_ENDED = {errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN}


class DiskServer(BlockServer):
    """Serves a driver as the one file of a FUSE connection, until that ends."""

    def __init__(
        self,
        driver: BlockDriver,
        descriptor: int,
        *,
        max_io: int = 1 << 20,
        depth: int = 64,
        report: Callable[[Exception], None] = lambda _: None,
        chore: Chore | None = None,
    ) -> None:
        super().__init__(driver, Buffers(depth, max_io), [descriptor], report=report, chore=chore)
        self._tree = Tree(driver.size)
        self._descriptor = descriptor
        self._max_io = max_io
        rows = Buffers(1, depth * _HEAD)[0]
        heads = rows.data
        self._heads = rows.view(REQUEST)
        self._parts = [
            [heads[slot * _HEAD : (slot + 1) * _HEAD], self._data[slot]] for slot in range(depth)
        ]
        self._free = deque(range(depth))
        self._starved = False

    def _make_forwarder(self, backings: Sequence[Backing]) -> Forwarder:
        return make_forwarder(self._buffers, self._watched, backings)

    def _written(self, length: int) -> Buffer:
        return _WRITTEN(length, 0)

    def _take(self) -> bool:
        slots, sizes = self._receive()
        if slots:
            self._dispatch(np.array(slots), np.array(sizes))
        return bool(slots)

    def _wait(self, timeout_ns: int | None) -> None:
        self._starved = not self._free
        # Asked again after the flag is up: a slot may have become free in between.
        wanted = POLLIN if self._free else 0
        # The connection's end is told in any case.
        woken, events = self._forwarder.wait((POLLIN, wanted), timeout_ns)
        if woken:
            os.eventfd_read(self._wake)
        if events and not events & POLLIN:
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
        self._serve_batch(slots, heads["unique"].tolist(), requests)

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
