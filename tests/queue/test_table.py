# SPDX-License-Identifier: Apache-2.0
"""The reader of tables on memory of any content: it neither fails, nor loops, nor looks outside."""

import os
import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmind.abi import layout
from kmind.errors import KmindError
from kmind.queue import Table, TableShape, map_table, open_tables

KEY = np.dtype([("device", "<u4"), ("name", "u1", (4,))])
ROW = np.dtype(
    {
        "names": ["row", "key", "count", "sizes"],
        "formats": [layout.ROW, KEY, "<u8", ("<u8", (6,))],
        "offsets": [0, 24, 32, 40],
        "itemsize": 128,
    }
)
SHAPE = TableShape(name="rows", rows=7, dtype=ROW, layout=77, histograms={"sizes": (0, 2, 6)})
LIVE = layout.ROW_STATE["LIVE"]


def memory_of(shape: TableShape, noise: bytes = b"") -> npt.NDArray[np.uint8]:
    memory = np.zeros(shape.size, np.uint8)
    size = shape.dtype.itemsize
    memory[: len(noise)] = np.frombuffer(noise, np.uint8)
    memory[:size] = np.frombuffer(shape.head(), np.uint8)
    return memory


def rows_in(memory: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    return memory[ROW.itemsize :][: SHAPE.places * ROW.itemsize].view(ROW)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=(SHAPE.places + 1) * 128, max_size=(SHAPE.places + 1) * 128))
def test_reader_bears_any_bytes(noise: bytes) -> None:
    memory = memory_of(SHAPE, noise)
    # Whatever the agent counts there is noise too; only what the loader wrote has to be right.
    memory[16:32], memory[40:64] = memory[128:144], memory[144:168]
    table = Table(memory, SHAPE)
    assert 0 <= len(table) <= SHAPE.places
    places, copies = table.copy_places()
    assert len(places) == len(copies) == len(table.copy())
    assert set(places.tolist()) <= set(table.live().tolist()) <= set(range(SHAPE.places))
    assert (copies["row"]["state"] == LIVE).all()
    assert (copies["row"]["seq"] % 2 == 0).all()
    found = table.find(device=int(rows_in(memory)["key"]["device"][3]))
    assert found is None or found.shape == (1,)
    assert 0 <= table.fill().used <= SHAPE.rows


@given(st.binary(min_size=64, max_size=64))
def test_table_with_another_head_is_refused(head: bytes) -> None:
    memory = memory_of(SHAPE)
    memory[:64] = np.frombuffer(head, np.uint8)
    words = np.frombuffer(head, layout.TABLE)[0]
    if tuple(map(int, words[["abi", "row_size", "layout", "rows"]])) != (1, 128, 77, 7):
        with pytest.raises(KmindError, match="table rows of the agent has another layout"):
            Table(memory, SHAPE)


def test_memory_that_ends_early_is_refused() -> None:
    size = (SHAPE.places + 1) * 128
    with pytest.raises(KmindError, match=f"table rows takes {size} bytes, and has {size - 1}"):
        Table(memory_of(SHAPE)[: size - 1], SHAPE)


def test_rows_are_a_view_and_copies_are_not() -> None:
    memory = memory_of(SHAPE)
    table, rows = Table(memory, SHAPE), rows_in(memory)
    rows["row"]["state"][2] = LIVE
    rows["key"]["device"][2], rows["count"][2] = 9, 5
    copies, row = table.copy(), table.find(device=9, name=[0, 0, 0, 0])
    rows["count"][2] = 6
    assert np.shares_memory(table.rows, memory)
    assert row is not None
    assert (int(row["count"][0]), copies["count"].tolist()) == (6, [5])
    assert table.find(device=9, name=[0, 0, 0, 1]) is None
    assert table.live().tolist() == [2]


def test_row_that_changes_its_key_meanwhile_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = memory_of(SHAPE)
    table, rows = Table(memory, SHAPE), rows_in(memory)
    rows["row"]["state"][:3] = LIVE
    rows["row"]["seq"][0] = 1  # it is made anew just now
    calls: list[None] = []

    def change() -> None:
        # Between the copies' being made and their being checked.
        calls.append(None)
        if len(calls) == 2:
            rows["row"]["seq"][1] += 2

    monkeypatch.setattr("kmind.queue.table.fence", change)
    assert table.copy_places()[0].tolist() == [2]


def test_large_table_is_read_in_one_pass() -> None:
    """4,096 rows, all said to be in use: no loop in Python over them."""
    shape = TableShape(name="rows", rows=4096, dtype=ROW, layout=77)
    memory = memory_of(shape)
    memory[128:] = LIVE
    memory[128:].view(ROW)["row"]["seq"] = 2
    memory[128:][: 4096 * 128].view(ROW)["row"]["state"] = LIVE
    table = Table(memory, shape)
    began = time.thread_time()
    assert len(table.copy()) == 4096
    assert time.thread_time() - began < 0.1


def test_table_that_the_agent_has_otherwise_is_refused() -> None:
    fd = os.memfd_create("table")
    try:
        os.ftruncate(fd, SHAPE.size)
        os.pwrite(fd, SHAPE.head(), 0)
        assert open_tables({"rows": fd, "more": -1}, [SHAPE]).keys() == {"rows"}
        with pytest.raises(KmindError, match="the agent has no table other") as caught:
            open_tables({"rows": fd}, [replace(SHAPE, name="other")])
        assert "unload the instance" in str(caught.value.hint)
        with pytest.raises(KmindError, match="table rows of the agent has another layout"):
            open_tables({"rows": fd}, [replace(SHAPE, layout=78)])
        with pytest.raises(KmindError, match="table rows of the agent cannot be mapped"):
            open_tables({"rows": fd}, [replace(SHAPE, rows=4096)])
    finally:
        os.close(fd)


def test_bounds_are_those_of_the_column() -> None:
    bounds = Table(memory_of(SHAPE), SHAPE).bounds("sizes")
    assert bounds.tolist() == [4, 8, 16, 32, 64, np.inf]
    assert bounds.shape == ROW["sizes"].shape


def test_mapped_table_cannot_be_written() -> None:
    fd = os.memfd_create("table")
    try:
        os.ftruncate(fd, SHAPE.size)
        os.pwrite(fd, SHAPE.head(), 0)
        table = Table(map_table(fd, SHAPE), SHAPE)
        assert len(table) == 0
        with pytest.raises(ValueError, match="read-only"):
            table.rows["count"][0] = 1
    finally:
        os.close(fd)
