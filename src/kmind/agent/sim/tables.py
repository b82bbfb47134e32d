# SPDX-License-Identifier: Apache-2.0
"""The tables of a simulated agent: what ``include/kmind/table.h`` does, in Python."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.queue import TableShape

__all__ = ["SimTable", "SimTables"]

_STATE = layout.ROW_STATE
_MS = 1_000_000
_GRACE_NS = layout.LIMIT["TABLE_GRACE_MS"] * _MS
_REST_NS = layout.LIMIT["TABLE_REST_MS"] * _MS
_SLICE = layout.LIMIT["TABLE_SLICE"]
_IDLE_TICKS = 16
_Array = npt.NDArray[np.void]


class SimTable:
    """One table in memory of its own, which others can only map for reading."""

    def __init__(self, shape: TableShape) -> None:
        writable = os.memfd_create(f"kmind-table-{shape.name}")
        try:
            os.ftruncate(writable, shape.size)
            memory = np.frombuffer(mmap.mmap(writable, shape.size), np.uint8)
            self.fd = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(writable)
        row_size = shape.dtype.itemsize
        memory[:row_size] = np.frombuffer(shape.head(), np.uint8)
        self._head = memory[: layout.TABLE.itemsize].view(layout.TABLE)
        self._rows: _Array = memory[row_size : (shape.places + 1) * row_size].view(shape.dtype)
        self._shape = shape
        self._index: dict[bytes, int] = {}
        self._free: list[int] = []

    def row(self, key: Mapping[str, object], now_ns: int) -> _Array | None:
        """The key's row, made if there is none: a view of one element; None without room."""
        packed = self._key(key)
        place = self._index.get(packed.tobytes())
        if place is None:
            return self._insert(packed, now_ns)
        row = self._rows[place : place + 1]
        row["row"]["updated_ns"] = np.maximum(row["row"]["updated_ns"], np.uint64(now_ns))
        return row

    def leave(self, key: Mapping[str, object], now_ns: int) -> None:
        """Take a key out; nothing if it is not there."""
        place = self._index.get(self._key(key).tobytes())
        if place is not None:
            self._unlink(place, now_ns)

    def look_through(self, now_ns: int, ticks: int) -> None:
        """The tick's part: free what has rested, and evict."""
        head = self._head[0]
        wanted = int(head["wanted"])
        if not wanted and not head["resting"] and ticks % _IDLE_TICKS:
            return
        head["wanted"] = 0
        count, freed, oldest = int(head["fresh"]), False, -1
        for _ in range(min(count, _SLICE)):
            cursor = int(head["cursor"])
            head["cursor"] = cursor = cursor + 1 if cursor < count else 1
            place = cursor - 1
            own = self._rows["row"][place]
            idle = max(now_ns - int(own["updated_ns"]), 0)
            if own["state"] == _STATE["LEFT"] and idle >= _REST_NS:
                self._free_place(place)
                head["resting"] -= 1
                freed = True
            elif own["state"] == _STATE["LIVE"] and idle >= _GRACE_NS:
                if 0 < int(head["evict_after_ns"]) <= idle:
                    self._unlink(place, now_ns)
                    head["aged"] += 1
                elif oldest < 0 or own["updated_ns"] < self._rows["row"]["updated_ns"][oldest]:
                    oldest = place
        if wanted and not freed and oldest >= 0 and head["resting"] <= self._shape.rows // 16:
            self._unlink(oldest, now_ns)
            head["displaced"] += 1

    def close(self) -> None:
        """Close its descriptor."""
        os.close(self.fd)

    def _key(self, key: Mapping[str, object]) -> np.void:
        packed = np.zeros(1, self._shape.dtype["key"])
        for name, value in key.items():
            packed[name] = np.asarray(value)
        head: np.void = packed[0]
        return head

    def _insert(self, key: np.void, now_ns: int) -> _Array | None:
        head = self._head[0]
        full = head["used"] >= self._shape.rows
        if self._free and not full:
            place = self._free.pop()
        elif head["fresh"] < self._shape.places and not full:
            place = int(head["fresh"])
            head["fresh"] += 1
        else:
            head["refused"] += 1
            head["wanted"] = 1
            return None
        row = self._rows[place : place + 1]
        seq = int(row["row"]["seq"][0])
        row.view(np.uint8)[:] = 0
        row["key"] = key
        row["row"]["created_ns"] = row["row"]["updated_ns"] = now_ns
        row["row"]["seq"] = (seq + 2) % (1 << 32)
        row["row"]["state"] = _STATE["LIVE"]
        self._index[key.tobytes()] = place
        head["used"] += 1
        return row

    def _unlink(self, place: int, now_ns: int) -> None:
        del self._index[self._rows["key"][place].tobytes()]
        self._rows["row"]["updated_ns"][place] = now_ns
        self._rows["row"]["state"][place] = _STATE["LEFT"]
        self._head["used"] -= 1
        self._head["resting"] += 1

    def _free_place(self, place: int) -> None:
        self._rows["row"]["state"][place] = _STATE["FREE"]
        self._free.append(place)


class SimTables:
    """All tables of one agent, by name."""

    def __init__(self, shapes: Iterable[TableShape]) -> None:
        self._tables = {shape.name: SimTable(shape) for shape in shapes}
        self.fds = {name: table.fd for name, table in self._tables.items()}

    def __getitem__(self, name: str) -> SimTable:
        return self._tables[name]

    def look_through(self, now_ns: int, ticks: int) -> None:
        """The tick's part, of each."""
        for table in self._tables.values():
            table.look_through(now_ns, ticks)

    def close(self) -> None:
        """Close their descriptors."""
        for table in self._tables.values():
            table.close()
