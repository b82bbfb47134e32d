# SPDX-License-Identifier: Apache-2.0
"""The simulated tables alone; the contract that they share with the kernel is test_tables.py."""

import mmap
import os

import msgspec
import numpy as np
import pytest

from kmind.abi import layout
from kmind.agent.sim.tables import SimTable, SimTables
from kmind.extension.manifest.manifest import TablePart

GRACE_NS = layout.LIMIT["TABLE_GRACE_MS"] * 1_000_000
REST_NS = layout.LIMIT["TABLE_REST_MS"] * 1_000_000
PART = msgspec.convert(
    {
        "name": "calls",
        "help": "x",
        "rows": 2,
        "evict_after_s": 10.0,
        "key": [{"name": "pid", "help": "x", "type": "u32"}],
        "column": [{"name": "calls", "help": "x", "kind": "counter"}],
    },
    TablePart,
)


@pytest.fixture
def table():
    made = SimTable(PART.shape)
    yield made
    made.close()


def test_others_can_map_it_only_for_reading(table: SimTable) -> None:
    size = os.fstat(table.fd).st_size
    assert size == PART.shape.size
    mmap.mmap(table.fd, size, prot=mmap.PROT_READ).close()
    with pytest.raises(PermissionError):
        mmap.mmap(table.fd, size, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def test_same_key_is_the_same_row(table: SimTable) -> None:
    first, again = table.row({"pid": 1}, 100), table.row({"pid": 1}, 90)
    assert first is not None
    assert again is not None
    assert np.shares_memory(first, again)
    # A clock that another CPU read earlier makes no row younger.
    assert (again["row"]["created_ns"][0], again["row"]["updated_ns"][0]) == (100, 100)


def test_full_table_makes_room_of_its_oldest_row_after_the_grace(table: SimTable) -> None:
    for pid, now in ((1, 0), (2, 5)):
        assert table.row({"pid": pid}, now) is not None
    assert table.row({"pid": 3}, 6) is None
    table.look_through(GRACE_NS - 1, ticks=0)
    assert table.row({"pid": 3}, GRACE_NS - 1) is None
    table.look_through(GRACE_NS + 5, ticks=0)
    kept = table.row({"pid": 2}, GRACE_NS + 5)
    assert kept is not None
    assert kept["row"]["created_ns"][0] == 5


def test_row_that_nothing_updates_is_evicted_by_age(table: SimTable) -> None:
    row = table.row({"pid": 1}, 0)
    assert row is not None
    table.look_through(10_000_000_000, ticks=16)
    assert int(table._head["aged"][0]) == 1
    assert row["row"]["state"][0] == layout.ROW_STATE["LEFT"]


def test_place_of_a_key_that_left_rests_before_it_is_another_ones(table: SimTable) -> None:
    row = table.row({"pid": 1}, 0)
    assert row is not None
    table.leave({"pid": 1}, 0)
    table.leave({"pid": 9}, 0)  # never was there
    table.look_through(REST_NS - 1, ticks=16)
    assert row["row"]["state"][0] == layout.ROW_STATE["LEFT"]
    table.look_through(2 * REST_NS, ticks=16)
    assert row["row"]["state"][0] == layout.ROW_STATE["FREE"]


def test_tables_are_found_by_name() -> None:
    tables = SimTables([PART.shape])
    assert tables.fds == {"calls": tables["calls"].fd}
    tables.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(tables.fds["calls"])
