# SPDX-License-Identifier: Apache-2.0
"""A block driver served by ublk: each request's slot is its tag, and an answer asks for the next.

The kernel copies the data of a write to the slot's memory before the request comes here, and that
of a read from there when it is answered. All goes through one ring of the serving thread, for the
kernel takes a queue's commands from the task that made its first.

Source: Documentation/block/ublk.rst, drivers/block/ublk_drv.c.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from kmind.driver.backing import Backing
from kmind.driver.block import BlockDriver, Buffer, Op, Requests
from kmind.driver.forward import Forwarder, PlainForwarder
from kmind.driver.precise import POLLIN
from kmind.driver.server import BlockServer, Chore
from kmind.driver.ublk.layout import DESCRIPTOR, IO, NO_UNMAP, IoCommand
from kmind.uring import Buffers, Ring, prepare

__all__ = ["UblkServer"]

_SECTOR = 512
_LONGEST_NS = 3600 * 10**9
_MOVES = int(Op.WRITE)  # READ and WRITE move data
_KNOWN = np.zeros(256, bool)
_KNOWN[[int(op) for op in Op]] = True


class UblkServer(BlockServer):
    """Serves a driver as a queue of a ublk device, until the device is stopped.

    ``descriptor`` is that of /dev/ublkcN.
    """

    def __init__(
        self,
        driver: BlockDriver,
        descriptor: int,
        *,
        max_io: int = 1 << 19,
        depth: int = 64,
        report: Callable[[Exception], None] = lambda _: None,
        chore: Chore | None = None,
    ) -> None:
        super().__init__(driver, Buffers(depth, max_io), report=report, chore=chore)
        self._file = descriptor
        self._replays = False
        self._max_io = max_io
        size = -(-depth * DESCRIPTOR.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
        shared = mmap.mmap(descriptor, size, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
        self._descriptors = np.frombuffer(shared, DESCRIPTOR, depth)
        self._commands = np.zeros(depth, IO)
        self._commands["tag"] = np.arange(depth)
        self._commands["address"] = self._buffers.addresses(np.arange(depth))
        self._results = [0] * depth
        self._answered: deque[int] = deque()
        self._out = depth
        self._ring: Ring | None = None

    def run(self, ready: Callable[[], None] = lambda: None, *, replays: bool = False) -> None:
        """Serve; returns when the device was stopped, or ``stop`` was called.

        This thread becomes the queue's, and calls ``ready`` once all of its requests can come: the
        device may be started from then on. ``replays``: it takes the place of a killed one, whose
        requests come again. ublk does not say which they are, so all are marked.
        """
        self._replays = replays
        depth = len(self._commands)
        # A completion for each tag, and the poll of what wakes us.
        with Ring(2 * (depth + 1)) as ring:
            self._ring = ring
            ring.push(self._entries(IoCommand.FETCH, np.arange(depth)))
            self._watch_wake()
            ring.submit()
            ready()
            super().run()

    def _make_forwarder(self, backings: Sequence[Backing]) -> Forwarder:
        return PlainForwarder(self._buffers, self._watched)

    def _written(self, length: int) -> Buffer:
        return b""

    def _take(self) -> bool:
        ring = self._own_ring()
        self._commit()
        ring.submit()
        done = ring.reap()
        if not len(done):
            return False
        tags = done["user_data"].astype(np.int64)
        woken = tags == len(self._commands)
        if woken.any():
            os.eventfd_read(self._wake)
            self._watch_wake()
        # What is not 0 is the end of a tag: the device is stopped, or asks for what we never do.
        ended = ~woken & (done["res"] != 0)
        self._out -= int(ended.sum())
        self._ended = self._out == 0
        tags = tags[~woken & ~ended]
        if len(tags):
            self._dispatch(tags)
        return bool(len(tags))

    def _dispatch(self, tags: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        told = self._descriptors[tags].copy()
        op = (told["op"] & 0xFF).astype(np.uint8)
        length = told["sectors"].astype(np.int64) * _SECTOR
        offset = told["first"].astype(np.int64) * _SECTOR
        moves = op <= _MOVES
        for tag, size in zip(tags.tolist(), np.where(moves, length, 0).tolist(), strict=True):
            self._results[tag] = size
        unmap = told["op"] & NO_UNMAP == 0
        good = _KNOWN[op] & (~moves | (length <= self._max_io))
        good &= offset + length <= self._driver.size
        for tag in tags[~good].tolist():
            self._reply(tag, errno.EIO)
        if good.any():
            requests = Requests(op, offset, length, np.full(len(tags), self._replays), unmap)
            self._serve_batch(tags[good], tags[good].tolist(), requests[good])

    def _wait(self, timeout_ns: int | None) -> None:
        if self._answered:
            return
        left = _LONGEST_NS if timeout_ns is None else max(0, min(timeout_ns, _LONGEST_NS))
        self._own_ring().submit(1, left / 1e9)

    def _reply(self, name: int, error: int, data: Buffer = b"") -> None:
        if error:
            self._results[name] = -error
        self._answered.append(name)
        if threading.get_ident() != self._thread:
            os.eventfd_write(self._wake, 1)

    def _release(self, slot: int) -> None:
        pass  # a tag is free when its answer has gone

    def _commit(self) -> None:
        """Push the answers that are there, each of which asks for the tag's next request."""
        tags = [self._answered.popleft() for _ in range(len(self._answered))]
        if not tags:
            return
        places = np.array(tags)
        self._commands["result"][places] = [self._results[tag] for tag in tags]
        self._own_ring().push(self._entries(IoCommand.COMMIT_AND_FETCH, places))

    def _entries(
        self, command: IoCommand, tags: np.ndarray[tuple[int], np.dtype[np.int64]]
    ) -> prepare.Entries:
        words = self._commands[tags].view(np.uint8).reshape(len(tags), IO.itemsize)
        return prepare.uring_cmd(self._file, int(command), tags, cmd=words)

    def _watch_wake(self) -> None:
        self._own_ring().push(prepare.poll(self._wake, POLLIN, len(self._commands)))

    def _own_ring(self) -> Ring:
        assert self._ring is not None, "it serves in run()"
        return self._ring
