# SPDX-License-Identifier: Apache-2.0
"""An NVMe controller: switched on, asked what it is, with one pair of queues for data.

The window is laid out here once: admin rings, a page for Identify, the data rings, and for each
command that can be out a list of pages and a buffer. So nothing is allocated later.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.driver.nvme.layout import (
    COMPLETION,
    DOORBELLS,
    NAMESPACE,
    PAGE,
    SUBMISSION,
    Admin,
    Register,
)
from kmind.driver.nvme.queues import QueuePair
from kmind.driver.pci.vfio import BASE, Device
from kmind.errors import KmindError

__all__ = ["Controller", "window_size"]

_ADMIN_SLOTS = 16
_FIXED_PAGES = 5  # admin rings, Identify, data rings
_ENTRY_BITS = 6 << 16 | 4 << 20  # log2 of the sizes of both kinds of entries
_ENABLE, _READY, _FATAL = 1, 1, 2
_NUMBER_OF_QUEUES = 7
_MAX_DEPTH = PAGE // SUBMISSION.itemsize - 1  # rings of one page


def window_size(depth: int, max_io: int) -> int:
    """Bytes of memory that a controller takes with ``depth`` commands of ``max_io`` bytes out."""
    return (_FIXED_PAGES + depth) * PAGE + depth * max_io


class Controller:
    """One controller with one namespace, alone on its ``device``.

    ``depth`` commands, of ``max_io`` bytes each, can be out; ``block`` is the namespace's block
    size in bytes, ``blocks`` how many there are. With an ``eventfd`` that is signalled at each
    answer, else they are polled for. Raises KmindError if the controller
    refuses a command or takes longer than it says itself.
    """

    def __init__(
        self, device: Device, *, depth: int, max_io: int, namespace: int = 1, eventfd: int = -1
    ) -> None:
        if not 1 <= depth <= _MAX_DEPTH:
            raise KmindError(f"{depth} commands at once", hint=f"have 1 to {_MAX_DEPTH}")
        if max_io % PAGE or not PAGE <= max_io <= PAGE * PAGE // 8:
            raise KmindError(f"{max_io} bytes are no whole pages", hint="have 4096 to 2097152")
        self._device = device
        self._namespace = namespace
        self.depth, self.max_io = depth, max_io
        memory = np.frombuffer(device.memory, np.uint8)
        if len(memory) < window_size(depth, max_io):
            raise KmindError(
                f"a window of {len(memory)} bytes is too small", hint="have less depth or max_io"
            )
        pages = memory[: _FIXED_PAGES * PAGE].reshape(_FIXED_PAGES, PAGE)
        self._identified = pages[2]
        lists = memory[_FIXED_PAGES * PAGE :][: depth * PAGE]
        start = (_FIXED_PAGES + depth) * PAGE
        self.buffers = memory[start : start + depth * max_io].reshape(depth, max_io)
        """Memory of each command's data."""
        self._firsts = BASE + start + max_io * np.arange(depth, dtype=np.uint64)
        self._lists = BASE + _FIXED_PAGES * PAGE + PAGE * np.arange(depth, dtype=np.uint64)
        self._write_lists(lists)
        capabilities = device.read(Register.CAPABILITIES, words=2)
        self._patience = (capabilities >> 24 & 0xFF) * 0.5 + 0.5
        self._stride = 4 << (capabilities >> 32 & 0xF)
        self._slots = min(_MAX_DEPTH, capabilities & 0xFFFF) + 1
        self._commands = 0
        memory[: _FIXED_PAGES * PAGE] = 0
        self._disable()
        self._admin = self._start(pages)
        block = self._identify(namespace)
        self.block: int = 1 << int(block["format_table"][block["format"] & 0xF]["shift"])
        self.blocks = int(block["size"])
        most = self._max_transfer()
        if most and max_io > most:
            raise KmindError(f"it moves {most} bytes at most", hint="have a smaller max_io")
        self._queue = self._make_queue(pages, eventfd)

    @property
    def size(self) -> int:
        """Bytes of the namespace."""
        return self.block * self.blocks

    def submit(
        self,
        opcode: npt.ArrayLike,
        slots: npt.NDArray[np.int64],
        offset: npt.NDArray[np.int64],
        length: npt.NDArray[np.int64],
    ) -> None:
        """Hand over commands, an array each: ``slots`` are free places from 0 to depth - 1.

        ``offset`` and ``length`` are in bytes, whole blocks; the data is in the slot's buffer.
        """
        commands = np.zeros(len(slots), SUBMISSION)
        commands["opcode"] = opcode
        commands["id"] = slots
        commands["namespace"] = self._namespace
        commands["page"] = self._firsts[slots]
        commands["next"] = np.where(
            length <= PAGE,
            0,
            np.where(length <= 2 * PAGE, self._firsts[slots] + PAGE, self._lists[slots]),
        )
        first = offset // self.block
        commands["word"][:, 0] = first & 0xFFFFFFFF
        commands["word"][:, 1] = first >> 32
        commands["word"][:, 2] = np.maximum(length // self.block, 1) - 1
        self._queue.submit(commands)

    def reap(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Take the answers that are there: the slots, and each one's status, 0 for success.

        Raises KmindError of a controller that answers what it was not asked: a slot it does not
        have.
        """
        answers = self._queue.reap()
        slots = answers["id"].astype(np.int64)
        if len(slots) and int(slots.max()) >= self.depth:
            raise KmindError(f"the controller answers command {slots.max()}, which is not out")
        return slots, (answers["status"] >> 1).astype(np.int64)

    def stop(self) -> None:
        """Switch it off: it forgets its queues, and what is out is not answered any more."""
        self._disable()

    def check(self) -> None:
        """Raise KmindError if the controller says that it has failed, or is gone."""
        status = self._device.read(Register.STATUS)
        if status == 0xFFFFFFFF:
            raise KmindError("the controller is gone")
        if status & _FATAL:
            raise KmindError("the controller has failed (CSTS.CFS)", hint="it takes a reset")

    def _write_lists(self, memory: npt.NDArray[np.uint8]) -> None:
        lists = memory.view(np.uint64).reshape(self.depth, PAGE // 8)
        later = np.arange(1, self.max_io // PAGE, dtype=np.uint64) * PAGE
        lists[:, : len(later)] = self._firsts[:, None] + later

    def _start(self, pages: npt.NDArray[np.uint8]) -> QueuePair:
        device = self._device
        device.write(Register.ADMIN_SIZES, (_ADMIN_SLOTS - 1) << 16 | (_ADMIN_SLOTS - 1))
        device.write(Register.ADMIN_SUBMISSION, BASE, words=2)
        device.write(Register.ADMIN_COMPLETION, BASE + PAGE, words=2)
        device.allow_dma()
        device.write(Register.CONFIGURATION, _ENABLE | _ENTRY_BITS)
        self._wait(_READY, "starts")
        return self._pair(0, pages[0], pages[1], _ADMIN_SLOTS)

    def _disable(self) -> None:
        self._device.write(Register.CONFIGURATION, 0)
        self._wait(0, "stops")

    def _wait(self, ready: int, verb: str) -> None:
        deadline = time.monotonic() + self._patience
        while self._device.read(Register.STATUS) & _READY != ready:
            self.check()
            if time.monotonic() > deadline:
                raise KmindError(f"the controller has {self._patience:g} s, and never {verb}")
            time.sleep(0.001)

    def _pair(
        self, number: int, out: npt.NDArray[np.uint8], back: npt.NDArray[np.uint8], slots: int
    ) -> QueuePair:
        place = DOORBELLS + 2 * number * self._stride
        return QueuePair(
            out.view(SUBMISSION)[:slots],
            back.view(COMPLETION)[:slots],
            (self._device.register(place), self._device.register(place + self._stride)),
        )

    def _make_queue(self, pages: npt.NDArray[np.uint8], eventfd: int) -> QueuePair:
        slots = self._slots
        if slots <= self.depth:
            raise KmindError(
                f"its rings have {slots} entries, for less than {self.depth} commands",
                hint="have less depth",
            )
        interrupt = 0
        if eventfd >= 0:
            self._device.interrupts([eventfd])
            interrupt = 2
        self._ask(Admin.SET_FEATURES, words=(_NUMBER_OF_QUEUES, 0))
        size = (slots - 1) << 16 | 1
        self._ask(Admin.CREATE_COMPLETION, page=BASE + 4 * PAGE, words=(size, 1 | interrupt))
        self._ask(Admin.CREATE_SUBMISSION, page=BASE + 3 * PAGE, words=(size, 1 | 1 << 16))
        return self._pair(1, pages[3], pages[4], slots)

    def _identify(self, namespace: int) -> np.void:
        self._ask(Admin.IDENTIFY, namespace=namespace, page=BASE + 2 * PAGE, words=(0,))
        found: np.void = self._identified.view(NAMESPACE)[0].copy()
        if not found["size"]:
            raise KmindError(f"the controller has no namespace {namespace}")
        return found

    def _max_transfer(self) -> int:
        """The most bytes that it moves by one command; 0 is without a limit."""
        self._ask(Admin.IDENTIFY, page=BASE + 2 * PAGE, words=(1,))
        shift = int(self._identified[77])  # MDTS
        return PAGE << shift if shift else 0

    def _ask(
        self, opcode: Admin, *, namespace: int = 0, page: int = 0, words: tuple[int, ...] = ()
    ) -> int:
        """Have the controller carry out one command, and return its result."""
        command = np.zeros(1, SUBMISSION)
        self._commands += 1
        command["opcode"], command["namespace"], command["page"] = opcode, namespace, page
        command["id"] = self._commands
        command["word"][0, : len(words)] = words
        self._admin.submit(command)
        deadline = time.monotonic() + self._patience
        while not len(answers := self._admin.reap()):
            self.check()
            if time.monotonic() > deadline:
                raise KmindError(f"the controller does not answer {opcode.name}")
            time.sleep(0.0005)
        answer: Any = answers[0]
        if answer["status"] >> 1:
            raise KmindError(
                f"the controller refuses {opcode.name}: status {answer['status'] >> 1:#x}"
            )
        return int(answer["result"])
