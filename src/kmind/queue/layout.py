# SPDX-License-Identifier: Apache-2.0
"""Layout of an arena: computed by its owner, read back by the extension."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.errors import KmindError

__all__ = ["PAGE", "Bytes", "Geometry", "window_view"]

PAGE = 4096

Bytes = npt.NDArray[np.uint8]


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


@dataclass(frozen=True)
class Geometry:
    """Offsets in bytes from the start of an arena; see ``struct kmind_geometry``."""

    abi: int
    size: int
    nr_cpus: int
    sq_slots: int
    rings: int
    cq: int
    notes: int
    windows: int
    sq: int
    status: int

    @classmethod
    def plan(cls, nr_cpus: int, sq_slots: int) -> Geometry:
        """Lay out an arena for that many CPUs, with ``sq_slots`` records for each.

        ``sq_slots`` is a power of two. Raises ``KmindError`` for what the agent
        library cannot serve.
        """
        limit = layout.LIMIT["MAX_CPUS"]
        if not 0 < nr_cpus < limit:
            raise KmindError(
                f"an agent serves at most {limit - 1} CPUs and this machine may have {nr_cpus}",
                hint="raise KMIND_MAX_CPUS in kmind/abi.h and build again",
            )
        if sq_slots & (sq_slots - 1) or sq_slots < 2:
            raise KmindError(f"{sq_slots} records for each CPU: must be a power of two")
        rings = PAGE
        cq = rings + _pages((nr_cpus + 1) * layout.RING.itemsize)
        notes = cq + _pages(layout.LIMIT["CQ_SLOTS"] * layout.RECOMMENDATION.itemsize)
        status = notes + _pages(layout.LIMIT["CQ_SLOTS"] * layout.LIMIT["NOTE_SIZE"])
        memory = status + _pages(layout.LIMIT["STATUS_SIZE"])
        windows = memory + _pages(layout.LIMIT["MEMORY_SIZE"])
        sq = windows + _pages(layout.LIMIT["WINDOW_SLOTS"] * layout.WINDOW.itemsize)
        size = sq + _pages(nr_cpus * sq_slots * layout.RECORD.itemsize)
        return cls(
            layout.LIMIT["ABI"], size, nr_cpus, sq_slots, rings, cq, notes, windows, sq, status
        )

    @classmethod
    def read(cls, arena: Bytes) -> Geometry:
        """The geometry that the owner wrote into an arena."""
        header = arena[: layout.HEADER.itemsize].view(layout.HEADER)[0]
        if int(header["magic"]) != layout.MAGIC:
            raise KmindError("this memory is not a kmind arena: its first word is wrong")
        stored = header["geometry"]
        geometry = cls(*(int(stored[field.name]) for field in fields(cls)))
        if geometry.abi != layout.LIMIT["ABI"]:
            raise KmindError(
                f"the agent speaks ABI {geometry.abi}, this extension {layout.LIMIT['ABI']}",
                hint="build both from the same version of kmind",
            )
        return geometry

    def pack(self) -> bytes:
        """As ``struct kmind_geometry``."""
        words = np.zeros((), layout.GEOMETRY)
        for field in fields(self):
            words[field.name] = getattr(self, field.name)
        return words.tobytes()

    def write_header(self, arena: Bytes) -> None:
        """Prepare a fresh arena: magic and geometry."""
        header = arena[: layout.HEADER.itemsize].view(layout.HEADER)
        header["geometry"][0] = np.frombuffer(self.pack(), layout.GEOMETRY)[0]
        header["magic"][0] = layout.MAGIC


def window_view(arena: Bytes, geometry: Geometry) -> npt.NDArray[np.void]:
    """All window slots: structured array of ``WINDOW_SLOTS``."""
    size = layout.LIMIT["WINDOW_SLOTS"] * layout.WINDOW.itemsize
    return arena[geometry.windows : geometry.windows + size].view(layout.WINDOW)
