# SPDX-License-Identifier: Apache-2.0
"""Reading an agent's tables: rows by key, as numpy sees them in shared memory.

The agent writes them, and nobody else can: user space maps them for reading only. A row's
numbers move while they are read, each by itself.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.errors import KmindError
from kmind.queue.histogram import bucket_bounds
from kmind.queue.layout import Bytes
from kmind.queue.order import fence

__all__ = ["Table", "TableFill", "TableShape", "map_table", "open_tables"]

_RELOAD = "unload the instance and load it again: its module has changed"
_LIVE = layout.ROW_STATE["LIVE"]
_Array = npt.NDArray[np.void]


@dataclass(frozen=True)
class TableShape:
    """Layout of a table in memory.

    ``dtype`` is one row: ``row`` (``layout.ROW``), ``key``, then the columns. ``layout`` is a
    check over their names and kinds. ``evict_after_ns`` 0 means never by age. ``histograms`` has
    scale, low and high of each column that is one.
    """

    name: str
    rows: int
    dtype: np.dtype[np.void]
    layout: int
    evict_after_ns: int = 0
    histograms: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    @property
    def places(self) -> int:
        """Places that rows lie in: a few more than rows, for CPUs that insert one key at once."""
        return self.rows + layout.LIMIT["TABLE_SPARE"]

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, in whole pages. The first place is not a row."""
        return -(-(self.places + 1) * self.dtype.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE

    @property
    def key_size(self) -> int:
        """Bytes of a key."""
        return int(self.dtype["key"].itemsize)

    def head(self) -> bytes:
        """The first place of a table that nobody has used yet."""
        words = np.zeros((), layout.TABLE)
        words["abi"] = layout.LIMIT["TABLE_ABI"]
        words["row_size"] = self.dtype.itemsize
        words["rows"] = self.rows
        words["layout"] = self.layout
        words["evict_after_ns"] = self.evict_after_ns
        return words.tobytes().ljust(self.dtype.itemsize, b"\0")


@dataclass(frozen=True)
class TableFill:
    """Fill level of a table, and the counts of evictions and refusals.

    ``used`` of ``rows`` rows have a key. ``aged`` rows left because nothing updated them for
    long enough, ``displaced`` to make room for a new key; ``refused`` counts updates of new keys
    that found no room.
    """

    rows: int
    used: int
    aged: int
    displaced: int
    refused: int


class Table:
    """One table. Not thread-safe.

    ``memory`` is what `map_table` gives. Raises KmindError if it holds another table than
    ``shape``.
    """

    def __init__(self, memory: Bytes, shape: TableShape) -> None:
        row_size = shape.dtype.itemsize
        size = (shape.places + 1) * row_size
        if len(memory) < size:
            raise KmindError(f"table {shape.name} takes {size} bytes, and has {len(memory)}")
        self._head = memory[: layout.TABLE.itemsize].view(layout.TABLE)
        head = self._head[0].copy()
        found = tuple(int(head[name]) for name in ("abi", "row_size", "rows", "layout"))
        if found != (layout.LIMIT["TABLE_ABI"], row_size, shape.rows, shape.layout):
            raise KmindError(
                f"table {shape.name} of the agent has another layout than the manifest says",
                hint=_RELOAD,
            )
        self.shape = shape
        #: All places of rows, whatever they hold: shape (places,), a view.
        self.rows: _Array = memory[row_size:size].view(shape.dtype)
        self._state = self.rows["row"]["state"]
        self._seq = self.rows["row"]["seq"]

    def __len__(self) -> int:
        """Rows that have a key now."""
        return int(np.count_nonzero(self._state == _LIVE))

    def live(self) -> npt.NDArray[np.intp]:
        """Places of the rows that have a key now, in order: indices into ``rows``."""
        return np.flatnonzero(self._state == _LIVE)

    def copy(self) -> _Array:
        """Copies of the rows that have a key, in the order of their places.

        Each is of one key throughout: one that changed its key meanwhile is left out.
        """
        return self.copy_places()[1]

    def copy_places(self) -> tuple[npt.NDArray[np.intp], _Array]:
        """The same, after the places."""
        places = self.live()
        before = self._seq[places]
        fence()
        copies = self.rows[places]
        fence()
        whole = (before & 1 == 0) & (self._seq[places] == before)
        whole &= copies["row"]["state"] == _LIVE
        return places[whole], copies[whole]

    def find(self, **key: object) -> _Array | None:
        """The row of a key, by the names of its fields: a view of one element; None without.

        It stays the key's for 4 ms after the key has left; ``row["row"]["state"]`` tells.
        """
        here = self._state == _LIVE
        for name, value in key.items():
            wanted = np.asarray(value, self.rows["key"][name].dtype)
            same = self.rows["key"][name] == wanted
            here &= same if same.ndim == 1 else same.all(axis=1)
        places = np.flatnonzero(here)
        return self.rows[places[0] : places[0] + 1] if len(places) else None

    def bounds(self, column: str) -> npt.NDArray[np.float64]:
        """Upper bounds of a histogram's buckets, each included; the last one is infinite."""
        return bucket_bounds(*self.shape.histograms[column])

    def fill(self) -> TableFill:
        """Return the table's fill level."""
        head = self._head[0].copy()
        used = min(int(head["used"]), self.shape.rows)
        counted = (int(head[name]) for name in ("aged", "displaced", "refused"))
        return TableFill(self.shape.rows, used, *counted)


def map_table(fd: int, shape: TableShape) -> Bytes:
    """Map a table for reading: bytes that cannot be written.

    Raises OSError or ValueError if it has another size.
    The kernel lets no one make that mapping writable later (kernel/bpf/syscall.c, bpf_map_mmap).
    Who has the descriptor could map it again: close it before untrusted code runs.
    """
    return np.frombuffer(mmap.mmap(fd, shape.size, mmap.MAP_SHARED, mmap.PROT_READ), np.uint8)


def open_tables(fds: Mapping[str, int], shapes: Iterable[TableShape]) -> dict[str, Table]:
    """Map an agent's tables by their names; see `map_table`.

    Raises KmindError for one that the agent has not, or that is laid out otherwise: an agent may
    be of an earlier version of its module.
    """
    tables = {}
    for shape in shapes:
        if shape.name not in fds:
            raise KmindError(f"the agent has no table {shape.name}", hint=_RELOAD)
        try:
            memory = map_table(fds[shape.name], shape)
        except (OSError, ValueError) as error:  # ValueError: it is shorter, by Python's word
            raise KmindError(
                f"table {shape.name} of the agent cannot be mapped: {error}", hint=_RELOAD
            ) from None
        tables[shape.name] = Table(memory, shape)
    return tables
