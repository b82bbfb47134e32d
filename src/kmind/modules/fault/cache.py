# SPDX-License-Identifier: Apache-2.0
"""A disk's volatile cache: what was flushed is never lost, and of the rest a cut keeps a choice.

A write is acknowledged as soon as it is here. A flush brings all to the store below. When the power
is cut, some sectors of the writes since then have reached the store and others have not: writes
may be lost, torn, or overtake each other, but a sector is whole, and holds the newest of those that
did reach it. The choice is drawn from a seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kmind.errors import UsageError

__all__ = ["CutReport", "Store", "VolatileCache"]

_Mask = npt.NDArray[np.bool_]


class Store(Protocol):
    """The medium below the cache."""

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write; it may be lost until ``sync``."""

    def sync(self) -> None:
        """Make all that was written safe."""


@dataclass(frozen=True)
class CutReport:
    """The end of a cut: how it chose, and the number of unflushed sectors kept, and lost."""

    choice: str
    kept: int
    lost: int
    torn: int
    """Writes of which a part was kept."""


@dataclass(frozen=True)
class _Write:
    first: int  # sector
    data: bytes
    safe: bool = False  # written through: a cut keeps it


class VolatileCache:
    """A cache of at most ``limit`` bytes above a store; beyond, the oldest writes go down first.

    Offsets and lengths are multiples of ``sector`` bytes, the unit that is never torn.
    """

    def __init__(self, store: Store, *, limit: int = 64 << 20, sector: int = 512) -> None:
        if sector < 512 or sector & (sector - 1) or limit < 0:
            raise UsageError(f"a cache cannot have sectors of {sector} bytes", hint="give 512")
        self._store, self._limit, self.sector = store, limit, sector
        self._writes: dict[int, _Write] = {}  # by number, oldest first
        self._newest: dict[int, int] = {}  # sector to number of the write that it is in
        self._next = 0
        self.size = 0
        """Bytes of writes that were not flushed."""

    def write(self, offset: int, data: bytes | memoryview, *, fua: bool = False) -> None:
        """Take a write; with ``fua`` (forced unit access) it is safe when this returns."""
        first, count = self._sectors(offset, len(data))
        copy = bytes(data)
        if fua:
            self._store.write(offset, copy)
            self._store.sync()
        number, self._next = self._next, self._next + 1
        # A safe one is kept here too: older ones that go down later must not cover it.
        self._writes[number] = _Write(first, copy, safe=fua)
        self._newest.update(dict.fromkeys(range(first, first + count), number))
        self.size += len(copy)
        while self.size > self._limit:
            self._write_back(next(iter(self._writes)))

    def covers(self, offset: int, length: int) -> bool:
        """True if the cache has a part of this range."""
        first = offset // self.sector
        end = -(-(offset + length) // self.sector)
        return not self._newest.keys().isdisjoint(range(first, end))

    def read(self, offset: int, into: memoryview | bytearray) -> None:
        """Lay what the cache has of a range over what the store has of it."""
        first, count = self._sectors(offset, len(into))
        size, newest = self.sector, self._newest
        for sector in range(first, first + count):
            number = newest.get(sector)
            if number is not None:
                write, at = self._writes[number], (sector - first) * size
                start = (sector - write.first) * size
                into[at : at + size] = write.data[start : start + size]

    def flush(self) -> None:
        """Bring all to the store. If that fails, all is here still."""
        for write in self._writes.values():
            self._store.write(write.first * self.sector, write.data)
        self._store.sync()
        self._writes.clear()
        self._newest.clear()
        self.size = 0

    def cut(self, random: np.random.Generator) -> CutReport:
        """Lose the power: a choice of what was not flushed reaches the store; the cache is empty.

        One of several ways is drawn, for real disks and the bugs that they bring out differ: all,
        none, all up to one moment, or to one write that is torn; whole writes or single sectors by
        a coin; all but one write, or but a part of one.
        """
        writes = list(self._writes.values())
        choice = _CHOICES[int(random.integers(len(_CHOICES)))]
        masks = list(self._choose(choice, writes, random))
        kept = total = torn = 0
        for write, mask in zip(writes, masks, strict=True):
            if write.safe:
                mask[:] = True
            else:
                kept, total = kept + int(mask.sum()), total + len(mask)
                torn += bool(mask.any() and not mask.all())
            for start, end in _runs(mask):
                data = write.data[start * self.sector : end * self.sector]
                self._store.write((write.first + start) * self.sector, data)
        self._store.sync()
        self._writes.clear()
        self._newest.clear()
        self.size = 0
        return CutReport(choice, kept, total - kept, torn)

    def _choose(
        self, choice: str, writes: list[_Write], random: np.random.Generator
    ) -> Iterator[_Mask]:
        odd = int(random.integers(len(writes))) if writes else 0
        for index, write in enumerate(writes):
            count = len(write.data) // self.sector
            coins = random.random(count) < 0.5
            every = {
                "none": False,
                "all": True,
                "until": index < odd,
                "until torn": index < odd,
                "writes": bool(random.random() < 0.5),
                "all but one": index != odd,
                "all but a part": True,
            }.get(choice)
            if choice == "sectors" or (index == odd and choice in ("until torn", "all but a part")):
                yield coins
            else:
                yield np.full(count, every, bool)

    def _write_back(self, number: int) -> None:
        write = self._writes[number]
        self._store.write(write.first * self.sector, write.data)
        del self._writes[number]
        self.size -= len(write.data)
        for sector in range(write.first, write.first + len(write.data) // self.sector):
            if self._newest.get(sector) == number:
                del self._newest[sector]

    def _sectors(self, offset: int, length: int) -> tuple[int, int]:
        if offset % self.sector or length % self.sector or offset < 0:
            raise UsageError(f"{length} bytes at {offset} are no whole sectors of {self.sector}")
        return offset // self.sector, length // self.sector


_CHOICES = (
    "none",
    "all",
    "until",
    "until torn",
    "writes",
    "sectors",
    "all but one",
    "all but a part",
)


def _runs(mask: _Mask) -> Iterator[tuple[int, int]]:
    # Begin and end of each run of true values.
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
