# SPDX-License-Identifier: Apache-2.0
"""Tables of a module: rows by key that its agent counts in, declared in the manifest."""

from __future__ import annotations

import zlib
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from kmind.abi import layout
from kmind.extension._parameter import Name, Part, Text
from kmind.queue import TableShape, bucket_count

__all__ = ["TableColumn", "TableKey", "TablePart"]

_LIMIT = layout.LIMIT
_FINEST = _LIMIT["HISTOGRAM_SCALE"]
_OWN = frozenset({"row", "key"})


class TableKey(Part, frozen=True):
    """``[[table.key]]``: one field of a key, in the order of the C struct.

    ``bytes`` has a ``size``; the others have that of their type.
    """

    name: Name
    type: Literal["u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64", "bytes"]
    help: Text
    size: Annotated[int, msgspec.Meta(ge=0, le=_LIMIT["TABLE_KEY"])] = 0

    def __post_init__(self) -> None:
        if (self.type == "bytes") != bool(self.size):
            raise ValueError(f"key {self.name}: size goes with type bytes, and bytes needs it")

    @property
    def format(self) -> Any:
        """Its type for a numpy dtype."""
        if self.type == "bytes":
            return ("u1", (self.size,))
        return f"<{self.type[0]}{int(self.type[1:]) // 8}"


class TableColumn(Part, frozen=True):
    """``[[table.column]]``: one number of a row, or one histogram.

    A counter grows from 0 when its row is made; a gauge is what was set last. A histogram counts
    values in buckets that are 2^(1/2^scale) wide, from 2^low to 2^high, after one for all below
    and before one for all above: ``buckets`` in all.
    """

    name: Name
    kind: Literal["counter", "gauge", "histogram"]
    help: Text
    unit: str = ""
    scale: Annotated[int, msgspec.Meta(ge=0, le=_FINEST)] = 0
    low: Annotated[int, msgspec.Meta(ge=0, le=62)] = 0
    high: Annotated[int, msgspec.Meta(ge=0, le=63)] = 0

    def __post_init__(self) -> None:
        if self.name in _OWN:
            raise ValueError(f"column {self.name}: a row has a {self.name} of its own")
        if self.kind != "histogram":
            if self.scale or self.low or self.high:
                raise ValueError(f"column {self.name}: scale, low and high go with a histogram")
            return
        if self.low >= self.high:
            raise ValueError(f"column {self.name}: a histogram needs low below high")
        if self.buckets > _LIMIT["HISTOGRAM_BUCKETS"]:
            most = _LIMIT["HISTOGRAM_BUCKETS"]
            raise ValueError(f"column {self.name}: {self.buckets} buckets, at most {most}")

    @property
    def buckets(self) -> int:
        """Number of buckets of a histogram."""
        return bucket_count(self.scale, self.low, self.high)

    @property
    def format(self) -> Any:
        """Its type for a numpy dtype."""
        return ("<u8", (self.buckets,)) if self.kind == "histogram" else "<u8"


class TablePart(Part, frozen=True, dict=True):
    """``[[table]]``: rows by key. The C of the agent declares the same with ``KM_TABLE``.

    A row that nothing updates for ``evict_after_s`` seconds is evicted; without that only where a
    new key finds no room: then it is the one that was updated least lately.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
    help: Text
    rows: Annotated[int, msgspec.Meta(ge=1, le=_LIMIT["TABLE_ROWS"])]
    keys: tuple[TableKey, ...] = msgspec.field(name="key")
    columns: tuple[TableColumn, ...] = msgspec.field(name="column")
    evict_after_s: Annotated[float, msgspec.Meta(ge=1, le=86400)] | None = None

    def __post_init__(self) -> None:
        for what, names in (
            ("key", [key.name for key in self.keys]),
            ("column", [column.name for column in self.columns]),
        ):
            if not names:
                raise ValueError(f"table {self.name}: it needs a {what}")
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"table {self.name}: {what} {name!r} occurs twice")
        histograms = sum(column.kind == "histogram" for column in self.columns)
        for count, limit, what in (
            (len(self.columns) - histograms, _LIMIT["TABLE_COLUMNS"], "counters and gauges"),
            (histograms, _LIMIT["TABLE_HISTOGRAMS"], "histograms"),
            (self.dtype.itemsize, _LIMIT["ROW_SIZE"], "bytes in a row"),
            (self.key_size, _LIMIT["TABLE_KEY"], "bytes in a key"),
        ):
            if count > limit:
                raise ValueError(f"table {self.name}: {count} {what}, at most {limit}")
        packed = sum(np.dtype(key.format).itemsize for key in self.keys)
        if packed != self.key_size:
            raise ValueError(
                f"table {self.name}: the compiler would leave a hole in its key, which hashes "
                f"as it is: order its fields by size, or add one of type bytes"
            )

    @property
    def key_size(self) -> int:
        """Bytes of a key."""
        return int(self.dtype["key"].itemsize)

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """One row: ``row`` (``layout.ROW``), ``key``, and each column by its name."""
        key = np.dtype([(key.name, key.format) for key in self.keys], align=True)
        columns = [(column.name, column.format) for column in self.columns]
        row = np.dtype([("row", layout.ROW), ("key", key), *columns], align=True)
        fields = row.fields
        assert fields is not None
        assert row.names is not None
        return np.dtype(
            {
                "names": list(row.names),
                "formats": [fields[name][0] for name in row.names],
                "offsets": [fields[name][1] for name in row.names],
                "itemsize": -(-row.itemsize // _LIMIT["ROW_ALIGN"]) * _LIMIT["ROW_ALIGN"],
            }
        )

    @cached_property
    def shape(self) -> TableShape:
        """The same, as agent and reader take it."""
        keys = [(key.name, key.type, key.size) for key in self.keys]
        columns = [(c.name, c.kind, c.scale, c.low, c.high) for c in self.columns]
        return TableShape(
            name=self.name,
            rows=self.rows,
            dtype=self.dtype,
            layout=zlib.crc32(repr((keys, columns)).encode()),
            evict_after_ns=int((self.evict_after_s or 0) * 1e9),
            histograms={
                column.name: (column.scale, column.low, column.high)
                for column in self.columns
                if column.kind == "histogram"
            },
        )
