# SPDX-License-Identifier: Apache-2.0
"""The extension's end of an arena, and the owner's look into it."""

from __future__ import annotations

import time
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.queue.completion import CompletionQueue
from kmind.queue.layout import Bytes, Geometry, window_view
from kmind.queue.memory import write_memory
from kmind.queue.ring import Reader

__all__ = ["Bell", "Endpoint", "peek_windows", "read_status"]

_STATUS = layout.LIMIT["STATUS_SIZE"]


class Bell(Protocol):
    """Something that wakes a sleeping reader: the doorbell, or its stand-in under ``sim``."""

    def wait(self, timeout_s: float) -> bool:
        """Sleep until rung, or so many seconds."""


class Endpoint:
    """All that an extension has of its agent: rings, queue, doorbell.

    ``arena`` is the whole arena as bytes (shape: its size), and ``first_id`` the id of
    the first recommendation (see `CompletionQueue`). One thread may use it.
    """

    def __init__(self, arena: Bytes, bell: Bell, first_id: int = 1) -> None:
        geometry = Geometry.read(arena)
        self.geometry = geometry
        self._arena = arena
        self._bell = bell
        header = arena[: layout.HEADER.itemsize].view(layout.HEADER)
        self._mode = header["mode"]
        self._need_wakeup = header["need_wakeup"]
        self._heartbeat = header["heartbeat"]
        # Not from 0: the agent may have rung already for a number of an earlier process.
        self._sleeps = time.monotonic_ns() & 0xFFFFFFFF
        rings = arena[geometry.rings :][: (geometry.nr_cpus + 1) * layout.RING.itemsize].reshape(
            -1, layout.RING.itemsize
        )
        records = arena[geometry.sq :][
            : geometry.nr_cpus * geometry.sq_slots * layout.RECORD.itemsize
        ].view(layout.RECORD)
        #: One reader a CPU, of ``layout.RECORD``.
        self.records = [
            Reader(rings[cpu], records[cpu * geometry.sq_slots :][: geometry.sq_slots])
            for cpu in range(geometry.nr_cpus)
        ]
        #: Closed feature windows, of ``layout.WINDOW``.
        self.windows = Reader(rings[geometry.nr_cpus], window_view(arena, geometry))
        self.cq = CompletionQueue(arena, geometry, first_id)

    @property
    def mode(self) -> int:
        """The mode that the agent says it is in."""
        return int(self._mode[0])

    def beat(self) -> None:
        """Tell the watchdog that this process lives."""
        self._heartbeat[0] = (int(self._heartbeat[0]) + 1) & 0xFFFFFFFF

    def waiting(self) -> bool:
        """Say whether there is a record or a window to read."""
        return bool(len(self.windows)) or any(len(reader) for reader in self.records)

    def wait(self, timeout_s: float) -> bool:
        """Sleep until there is something to read, or so many seconds.

        Returns at once, without a system call, when there is. The agent rings
        once for each sleep, and its timer looks after a ring that was missed.
        """
        if self.waiting():
            return True
        self._sleeps = self._sleeps % 0xFFFFFFFF + 1
        self._need_wakeup[0] = self._sleeps
        try:
            if not self.waiting():
                self._bell.wait(timeout_s)
        finally:
            self._need_wakeup[0] = 0
        return self.waiting()

    def set_status(self, text: bytes) -> None:
        """Show the admin a few words (UTF-8, at most 4,091 bytes)."""
        text = text[: _STATUS - 5]
        start = self.geometry.status
        self._arena[start : start + 4] = 0
        self._arena[start + 4 : start + 4 + len(text)] = np.frombuffer(text, np.uint8)
        self._arena[start : start + 4].view(np.uint32)[0] = len(text)

    def remember(self, text: bytes) -> None:
        """Leave a text (at most ``MEMORY_MOST`` bytes) that is to be there at the next start."""
        write_memory(self._arena, self.geometry, text)


def read_status(arena: Bytes, geometry: Geometry) -> bytes:
    """Return the extension's own status text: untrusted bytes."""
    start = geometry.status
    length = int(arena[start : start + 4].view(np.uint32)[0])
    return arena[start + 4 : start + 4 + min(length, _STATUS - 5)].tobytes()


def peek_windows(arena: Bytes, geometry: Geometry, head: int, count: int) -> npt.NDArray[np.void]:
    """Copies of the last ``count`` windows of ``head``, oldest first, without consuming any.

    For the owner: ``head`` is how many the agent has closed, by its account. The slots are in the
    extension's reach: show them, decide nothing by them.
    """
    slots = window_view(arena, geometry)
    count = min(count, head, len(slots))
    order = np.arange(head - count, head) % len(slots)
    return slots[order]
