# SPDX-License-Identifier: Apache-2.0
"""The tables of an agent in the kernel: their maps sized, written to once, and handed on.

Of each table three maps stand in the object (``include/kmind/table.h``): ``km_table_X`` holds
the rows, ``km_index_X`` finds a key's, ``km_places_X`` keeps the free ones.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping

import numpy as np

from kmind.abi import layout
from kmind.bpf import BpfObject, Map
from kmind.errors import BpfError
from kmind.queue import TableShape

__all__ = ["inherit_tables", "size_tables", "table_maps", "write_heads"]

_ROWS = "km_table_"
_PARTS = (_ROWS, "km_index_", "km_places_")
_PLACED = ("abi", "row_size", "rows", "layout")


def table_maps(maps: Mapping[str, Map]) -> dict[str, Map]:
    """The maps that hold rows: name of the table to map."""
    return {name.removeprefix(_ROWS): map_ for name, map_ in maps.items() if name.startswith(_ROWS)}


def size_tables(loading: BpfObject, tables: Iterable[TableShape]) -> None:
    """Give the object's tables their rows, before it is loaded.

    Raises BpfError if it has others than these, or of other sizes.
    """
    there, wanted = table_maps(loading.maps), {shape.name: shape for shape in tables}
    for name in sorted(there.keys() ^ wanted.keys()):
        has, lacks = (
            ("object", "manifest") if name in there else ("manifest", f"object {loading.path.name}")
        )
        raise BpfError(
            f"the {has} has a table {name}, and the {lacks} has none",
            hint="a [[table]] in module.toml goes with a KM_TABLE in the C",
        )
    for name, shape in wanted.items():
        index = loading.maps[f"km_index_{name}"]
        for what, actual, declared in (
            ("row", there[name].value_size, shape.dtype.itemsize),
            ("key", index.key_size, shape.key_size),
        ):
            if actual != declared:
                raise BpfError(
                    f"a {what} of table {name} has {actual} bytes in {loading.path.name}, and "
                    f"{declared} by the manifest",
                    hint="declare the same keys and columns, in the same order, in both",
                )
        # The index is what keeps it to its rows: it settles the race for the last of them.
        index.set_max_entries(shape.rows)
        loading.maps[f"km_places_{name}"].set_max_entries(shape.places)
        there[name].set_max_entries(shape.places + 1)


def inherit_tables(
    loading: BpfObject, before: Mapping[str, Map], tables: Iterable[TableShape]
) -> None:
    """Have the object go on with the tables of an earlier one, where they are laid out alike."""
    for shape in tables:
        kept = before.get(_ROWS + shape.name)
        if kept is None or kept.max_entries != shape.places + 1:
            continue
        if _placed(kept.lookup(bytes(4)) or b"") == _placed(shape.head()):
            for part in _PARTS:
                loading.maps[part + shape.name].reuse_fd(before[part + shape.name].fd)


def write_heads(maps: Mapping[str, Map], tables: Iterable[TableShape]) -> None:
    """Say in each table's first place what it is. What the agent writes there stays."""
    for shape in tables:
        wanted = np.frombuffer(shape.head(), layout.TABLE, 1)
        with mmap.mmap(maps[_ROWS + shape.name].fd, shape.size, mmap.MAP_SHARED) as memory:
            head = np.frombuffer(memory, layout.TABLE, 1)
            for name in (*_PLACED, "evict_after_ns"):
                head[name] = wanted[name]
            del head


def _placed(packed: bytes) -> tuple[int, ...]:
    if len(packed) < layout.TABLE.itemsize:
        return ()
    head = np.frombuffer(packed, layout.TABLE, 1)[0]
    return tuple(int(head[name]) for name in _PLACED)
