# SPDX-License-Identifier: Apache-2.0
"""The columns of a recording: there and back, and files that lack some."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from learn.written import MODULE, values

from kmind.extension import KnobInfo
from kmind.learn.meta import Meta, decode_meta
from kmind.learn.schema import (
    KNOB_UNKNOWN,
    columns_of,
    make_schema,
    missing_columns,
    windows_from,
)
from kmind.testing.recordings import made_records, made_windows, write_recording

KNOB = KnobInfo("block.read_ahead_kb", 7, "int", "KiB", 4, 8192, 4, (), 3, 128)


@pytest.fixture
def meta(tmp_path: Path) -> Meta:
    windows = made_windows(values(1))
    return write_recording(tmp_path / "x", MODULE, windows, knobs={KNOB.name: KNOB}).meta


def table_of(meta: Meta, *rows: Any) -> Any:
    return pa.table(columns_of(meta, *rows), schema=make_schema(meta))


def test_windows_and_knobs_come_back(meta: Meta) -> None:
    rows, knobs = made_windows(values(40)), np.full((40, 1), 128)
    knobs[3] = KNOB_UNKNOWN
    table = table_of(meta, rows, knobs)
    assert table.column(KNOB.name).null_count == 1
    at, windows, stood = windows_from(table, meta)
    assert np.array_equal(at, rows["at"])
    assert windows.tobytes() == rows["window"].tobytes()
    assert np.array_equal(stood, knobs)


def test_records_come_back(tmp_path: Path) -> None:
    rows = made_records(500, 10)
    recording = write_recording(tmp_path / "y", MODULE, made_windows(values(10)), rows)
    ((at, records),) = recording.records()
    assert np.array_equal(at, rows["at"])
    assert records.tobytes() == rows["record"].tobytes()


def test_schema_names_units_and_carries_its_meta(meta: Meta) -> None:
    schema = make_schema(meta)
    assert len(set(schema.names)) == len(schema.names)
    features = {feature.name: feature.unit for feature in meta.features}
    assert {name: schema.field(name).metadata[b"unit"].decode() for name in features} == features
    assert all("." not in name for name in features)  # so that no window's column can be one
    assert decode_meta(schema.metadata, "x") == meta


def test_column_that_lacks_or_has_another_type_is_named(meta: Meta) -> None:
    schema = make_schema(meta)
    assert not list(missing_columns(schema, meta))
    place = schema.get_field_index("window.seq")
    assert list(missing_columns(schema.remove(place), meta)) == ["window.seq"]
    other = schema.set(place, pa.field("window.seq", pa.string()))
    assert list(missing_columns(other, meta)) == ["window.seq"]
