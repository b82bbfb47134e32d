# SPDX-License-Identifier: Apache-2.0
"""Tables in a recording: a row of each change, and the table that they make again."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.extension.manifest.manifest import TablePart
from kmind.learn._arrow import pa
from kmind.queue import Table

__all__ = [
    "Changes",
    "ReplayedTable",
    "column_arrays",
    "column_fields",
    "rows_from_columns",
    "stored_row",
]

_Array = npt.NDArray[Any]
_LIVE, _LEFT = layout.ROW_STATE["LIVE"], layout.ROW_STATE["LEFT"]
# Column: field of a row's head, unit, help.
_HEAD = {
    "row.state": ("state", "1", "enum kmind_row_state: 2 in use, 3 its key has left"),
    "row.created_ns": ("created_ns", "ns", "when the key got its row"),
    "row.updated_ns": ("updated_ns", "ns", "the last update, to one tick"),
}


def stored_row(part: TablePart) -> np.dtype[np.void]:
    """A row, its place in the table, and where its reading stands among the windows."""
    return np.dtype([("at", "<u4"), ("place", "<u4"), ("row", part.dtype)])


class Changes:
    """Changes of a table since it was last read."""

    def __init__(self, table: Table, part: TablePart) -> None:
        self._table = table
        self._stored = stored_row(part)
        self._last: _Array = np.zeros(part.shape.places, part.dtype)
        # The bytes that fields take: between them, copies hold anything.
        self._held = np.zeros(part.dtype.itemsize, bool)
        for kind, offset, *_ in (part.dtype.fields or {}).values():
            self._held[offset : offset + kind.itemsize] = True

    def read(self, at: int) -> _Array:
        """Rows that have changed, and those whose key has left: of `stored_row`."""
        places, rows = self._table.copy_places()
        last = self._last[places]
        # By all their bytes: two updates within one tick have one time.
        new = ((_bytes(rows) != _bytes(last)) & self._held).any(axis=1)
        places, rows = places[new], rows[new]
        used = np.zeros(len(self._last), bool)
        used[self._table.live()] = True
        gone = np.flatnonzero((self._last["row"]["state"] == _LIVE) & ~used)
        self._last["row"]["state"][gone] = _LEFT
        self._last[places] = rows
        found = np.zeros(len(gone) + len(places), self._stored)
        found["at"] = at
        found["place"] = np.concatenate([gone, places])
        found["row"] = self._last[found["place"]]
        return found


class ReplayedTable:
    """The table of a recording, as it was when each window was read."""

    def __init__(self, part: TablePart) -> None:
        self._memory = np.zeros(part.shape.size, np.uint8)
        head, size = part.shape.head(), part.dtype.itemsize
        self._memory[:size] = np.frombuffer(head, np.uint8)
        self._head = self._memory[: layout.TABLE.itemsize].view(layout.TABLE)
        self._rows: _Array = self._memory[size : (part.shape.places + 1) * size].view(part.dtype)
        view = self._memory.view()
        view.flags.writeable = False
        #: For the extension, which cannot write to it.
        self.table = Table(view, part.shape)

    def apply(self, rows: _Array) -> None:
        """Put rows of `stored_row` in their places. IndexError for one beyond the table."""
        self._rows[rows["place"]] = rows["row"]
        self._head["used"] = len(self.table)


def _bytes(rows: _Array) -> _Array:
    plain = np.ascontiguousarray(rows)
    return plain.view(np.uint8).reshape(len(plain), plain.dtype.itemsize)


# As columns of a file.


def column_fields(part: TablePart) -> list[tuple[str, Any, str, str]]:
    """Name, Arrow type, unit and help of each column: of `column_arrays`, in its order."""
    fields = [("at", pa.uint32(), "1", "number of the window that was read next")]
    fields.append(("place", pa.uint32(), "1", "of the row, in the table"))
    for name, (member, unit, text) in _HEAD.items():
        fields.append((name, pa.from_numpy_dtype(layout.ROW[member]), unit, text))
    for key in part.keys:
        kind = pa.binary(key.size) if key.size else pa.from_numpy_dtype(np.dtype(key.format))
        fields.append((f"key.{key.name}", kind, "1", key.help))
    for column in part.columns:
        kind = pa.uint64()
        if column.kind == "histogram":
            kind = pa.list_(kind, column.buckets)
        fields.append((column.name, kind, column.unit or "1", column.help))
    return fields


def column_arrays(part: TablePart, rows: _Array) -> list[Any]:
    """One Arrow array a column, for rows of `stored_row`."""
    inner = rows["row"]
    columns = [_plain(rows["at"]), _plain(rows["place"])]
    columns += [_plain(inner["row"][member]) for member, _, _ in _HEAD.values()]
    for key in part.keys:
        column = np.ascontiguousarray(inner["key"][key.name])
        if key.size:
            packed = column.view(f"V{key.size}").reshape(len(rows))
            columns.append(pa.array(packed.tolist(), pa.binary(key.size)))
        else:
            columns.append(pa.array(column))
    for each in part.columns:
        column = np.ascontiguousarray(inner[each.name])
        if each.kind == "histogram":
            columns.append(pa.FixedSizeListArray.from_arrays(column.reshape(-1), each.buckets))
        else:
            columns.append(pa.array(column))
    return columns


def rows_from_columns(part: TablePart, table: Any) -> _Array:
    """Rows of `stored_row` from an Arrow table. ValueError for what no recorder writes."""
    rows = np.zeros(len(table), stored_row(part))
    rows["at"], rows["place"] = _numpy(table, "at"), _numpy(table, "place")
    if (rows["place"] >= part.shape.places).any():
        raise ValueError(f"a row lies beyond the {part.shape.places} places of its table")
    inner = rows["row"]
    for name, (member, _, _) in _HEAD.items():
        inner["row"][member] = _numpy(table, name)
    for key in part.keys:
        column = table.column(f"key.{key.name}")
        if key.size:
            packed = b"".join(column.to_pylist())
            inner["key"][key.name] = np.frombuffer(packed, np.uint8).reshape(-1, key.size)
        else:
            inner["key"][key.name] = column.to_numpy()
    for each in part.columns:
        if each.kind == "histogram":
            flat = table.column(each.name).combine_chunks().flatten().to_numpy()
            inner[each.name] = flat.reshape(len(rows), each.buckets)
        else:
            inner[each.name] = _numpy(table, each.name)
    return rows


def _plain(column: _Array) -> Any:
    return pa.array(np.ascontiguousarray(column))


def _numpy(table: Any, name: str) -> _Array:
    column: _Array = table.column(name).to_numpy()
    return column
