# SPDX-License-Identifier: Apache-2.0
"""A namespace of an NVMe controller as a block driver."""

from __future__ import annotations

import errno
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from kmind.driver.block import Batch, BlockDriver, Op
from kmind.driver.nvme.controller import Controller
from kmind.driver.nvme.layout import Io
from kmind.driver.pci.vfio import Device

__all__ = ["NvmeDisk"]

_COMMANDS = {
    Op.READ: Io.READ,
    Op.WRITE: Io.WRITE,
    Op.FLUSH: Io.FLUSH,
    Op.WRITE_ZEROES: Io.WRITE_ZEROES,
}
_OPCODE = np.zeros(max(_COMMANDS) + 1, np.uint8)
for _op, _command in _COMMANDS.items():
    _OPCODE[_op] = _command
_READ, _WRITE = int(Op.READ), int(Op.WRITE)
_CHECK_MS = 1000  # without an answer the controller is asked whether it lives


class NvmeDisk(BlockDriver):
    """Hands requests to the controller, and answers them from a thread that waits for it.

    Requests wait in order while ``depth`` commands are out. If the controller fails, all that is
    out or comes later fails with EIO, and ``report`` gets the exception.
    """

    operations: ClassVar[frozenset[Op]] = frozenset({Op.FLUSH, Op.WRITE_ZEROES})

    def __init__(
        self,
        device: Device,
        *,
        depth: int = 32,
        max_io: int = 128 << 10,
        report: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._controller = Controller(device, depth=depth, max_io=max_io, eventfd=self._event)
        self.size = self._controller.size
        self._report = report
        self._free = deque(range(depth))
        self._waiting: deque[tuple[Batch, int]] = deque()
        self._out: dict[int, tuple[Batch, int]] = {}
        self._lock = threading.Lock()
        self._failed = self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="nvme")
        self._thread.start()

    def serve(self, batch: Batch) -> None:
        """Hand requests to the controller, as far as it has places for them."""
        with self._lock:
            if self._failed:
                batch.fail(np.arange(len(batch)), errno.EIO)
                return
            self._waiting.extend((batch, index) for index in range(len(batch)))
            self._submit()

    def close(self) -> None:
        """Switch the controller off, and let go of the device; what is out fails with EIO."""
        self._stopped = True
        os.eventfd_write(self._event, 1)
        self._thread.join()
        self._controller.stop()
        with self._lock:
            self._fail()
        del self._controller  # and with it what maps the device

    def _submit(self) -> None:
        count = min(len(self._free), len(self._waiting))
        if not count:
            return
        slots = [self._free.popleft() for _ in range(count)]
        requests = [self._waiting.popleft() for _ in range(count)]
        self._out.update(zip(slots, requests, strict=True))
        ops = np.array([batch.op[index] for batch, index in requests])
        length = np.array([batch.length[index] for batch, index in requests])
        for slot, (batch, index) in zip(slots, requests, strict=True):
            if batch.op[index] == _WRITE:
                data = batch.data[index]
                self._controller.buffers[slot, : len(data)] = data
        offset = np.array([batch.offset[index] for batch, index in requests])
        self._controller.submit(_OPCODE[ops], np.array(slots), offset, length)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._event, select.POLLIN)
        while not self._stopped:
            try:
                if poll.poll(_CHECK_MS):
                    os.eventfd_read(self._event)
                else:
                    self._controller.check()
                self._answer()
            except Exception as error:  # of the controller's making: nothing can be expected of it
                with self._lock:
                    self._failed = True
                    self._fail()
                self._report(error)
                return

    def _answer(self) -> None:
        with self._lock:
            slots, status = self._controller.reap()
            done = [(slot, self._out.pop(slot)) for slot in slots.tolist()]
            for (slot, (batch, index)), failed in zip(done, status.tolist(), strict=True):
                if failed:
                    batch.fail(index, errno.EIO)
                elif batch.op[index] == _READ:
                    data = self._controller.buffers[slot, : batch.length[index]]
                    batch.finish(index, [data.data])
                else:
                    batch.finish(index)
                self._free.append(slot)
            self._submit()

    def _fail(self) -> None:
        """Answer all that is out or waiting with EIO."""
        for batch, index in (*self._out.values(), *self._waiting):
            batch.fail(index, errno.EIO)
        self._out.clear()
        self._waiting.clear()
