# SPDX-License-Identifier: Apache-2.0
"""The columns of a recording, and how they become the structures of ``kmind.abi``.

Names of windows' columns that are not features have a dot in them, which features'
names cannot have. ``at`` puts the two streams of an instance in order: it counts the
windows that had been read, so records with the same number came before that window.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.learn._arrow import pa
from kmind.learn._tables import column_arrays, column_fields
from kmind.learn.meta import KEY, Meta

__all__ = [
    "KNOB_UNKNOWN",
    "STORED_RECORD",
    "STORED_WINDOW",
    "columns_of",
    "make_schema",
    "missing_columns",
    "records_from",
    "windows_from",
]

_Array = npt.NDArray[Any]

KNOB_UNKNOWN = np.iinfo(np.int64).min
"""Stands, in memory, for a knob that changed during a window; null in a file."""

STORED_RECORD = np.dtype([("at", "<u4"), ("record", layout.RECORD)])
"""A record and where it stands among the windows."""

STORED_WINDOW = np.dtype([("at", "<u4"), ("window", layout.WINDOW)])
"""A window and its number."""

# Column: field of the structure, unit, what it is.
_WINDOW = {
    "window.at": ("at", "1", "number of the window"),
    "window.seq": ("seq", "1", "the agent's number: a gap is a window that was lost"),
    "window.mode": ("mode", "1", "enum kmind_mode"),
    "window.dropped": ("dropped", "1", "records that the agent had to drop so far"),
    "window.start_ns": ("start_ns", "ns", "begin"),
    "window.end_ns": ("end_ns", "ns", "end"),
}
_RECORD = {
    "at": ("at", "1", "number of the window that was read next"),
    "seq": ("seq", "1", "the agent's number, for each CPU: a gap is a record that was lost"),
    "kind": ("kind", "1", "KMIND_KIND_MODULE and the module's own number"),
    "cpu": ("cpu", "1", "CPU"),
    "subject": ("subject", "1", "see the module's kinds"),
    "time_ns": ("time_ns", "ns", "0 if the module records no time"),
    "value": ("value", "1", "see the module's kinds"),
}


def make_schema(meta: Meta) -> Any:
    """The Arrow schema of a file: names, types, units, and ``meta`` itself."""
    base, kind, inner = (
        (_WINDOW, STORED_WINDOW, layout.WINDOW)
        if meta.stream == "windows"
        else (_RECORD, STORED_RECORD, layout.RECORD)
    )
    fields = []
    if meta.stream == "tables":
        for name, arrow, unit, what in column_fields(meta.table_part):
            fields.append(_field(name, arrow, unit, what, nullable=False))
        return pa.schema(fields, metadata={KEY: meta.encode()})
    for name, (member, unit, what) in base.items():
        dtype = kind["at"] if member == "at" else inner[member]
        fields.append(_field(name, pa.from_numpy_dtype(dtype), unit, what, nullable=False))
    if meta.stream == "windows":
        for feature in meta.features:
            fields.append(
                _field(feature.name, pa.uint64(), feature.unit, feature.help, nullable=False)
            )
        for knob in meta.knobs.values():
            what = "value all through the window, encoded; null if it changed"
            fields.append(_field(knob.name, pa.int64(), knob.unit, what, nullable=True))
    return pa.schema(fields, metadata={KEY: meta.encode()})


def _field(name: str, kind: Any, unit: str, what: str, *, nullable: bool) -> Any:
    return pa.field(name, kind, nullable, metadata={"unit": unit, "help": what})


def columns_of(meta: Meta, rows: _Array, knobs: _Array | None = None) -> list[Any]:
    """One Arrow array a column, for rows of the stream: see ``STORED_WINDOW`` and the others.

    ``knobs`` has shape (rows, knobs of the module).
    """
    if meta.stream == "tables":
        return column_arrays(meta.table_part, rows)
    windows = meta.stream == "windows"
    inner = rows["window" if windows else "record"]
    base = _WINDOW if windows else _RECORD
    columns = [
        _plain(rows["at"] if member == "at" else inner[member]) for member, _, _ in base.values()
    ]
    if windows:
        columns += [_plain(inner["value"][:, n]) for n in range(len(meta.features))]
        for n in range(len(meta.knobs)):
            if knobs is None:
                columns.append(pa.nulls(len(rows), pa.int64()))
            else:
                columns.append(pa.array(_whole(knobs[:, n]), mask=knobs[:, n] == KNOB_UNKNOWN))
    return columns


def _whole(column: _Array) -> _Array:
    return np.ascontiguousarray(column)


def _plain(column: _Array) -> Any:
    return pa.array(_whole(column))


def records_from(table: Any) -> tuple[_Array, _Array]:
    """``at``, and ``layout.RECORD``, both of shape (rows,), from a table of records."""
    rows = np.empty(len(table), layout.RECORD)
    return _fill(rows, table, _RECORD), rows


def windows_from(table: Any, meta: Meta) -> tuple[_Array, _Array, _Array]:
    """``at``, ``layout.WINDOW``, both of shape (rows,), and the knobs, shape (rows, knobs)."""
    rows = np.zeros(len(table), layout.WINDOW)
    at = _fill(rows, table, _WINDOW)
    for n, feature in enumerate(meta.features):
        rows["value"][:, n] = _numpy(table, feature.name)
    knobs = np.full((len(table), len(meta.knobs)), KNOB_UNKNOWN, np.int64)
    for n, name in enumerate(meta.knobs):
        column = table.column(name)
        knobs[:, n] = column.fill_null(int(KNOB_UNKNOWN)).to_numpy()
    return at, rows, knobs


def _fill(rows: _Array, table: Any, base: dict[str, tuple[str, str, str]]) -> _Array:
    at = np.zeros(0, np.uint32)
    for name, (member, _, _) in base.items():
        if member == "at":
            at = _numpy(table, name)
        else:
            rows[member] = _numpy(table, name)
    rows["commit"] = rows["seq"] + np.uint32(1)
    return at


def _numpy(table: Any, name: str) -> _Array:
    column: _Array = table.column(name).to_numpy()
    return column


def missing_columns(schema: Any, meta: Meta) -> Iterable[str]:
    """Columns that a file of this kind has and that are not there, or of another type."""
    for field in make_schema(meta):
        place = schema.get_field_index(field.name)
        if place < 0 or schema.field(place).type != field.type:
            yield field.name
