# SPDX-License-Identifier: Apache-2.0
"""Recordings read back, whole and damaged."""

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from learn.written import MODULE, values

from kmind.errors import RecordingError
from kmind.extension import KnobInfo
from kmind.learn._part import Part
from kmind.learn.recording import open_recordings
from kmind.learn.schema import KNOB_UNKNOWN, columns_of
from kmind.testing.recordings import made_records, made_windows, write_recording

KNOB = KnobInfo("block.read_ahead_kb", 7, "int", "KiB", 4, 8192, 4, (), 3, 128)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    windows, records = made_windows(values(50)), made_records(3000, 50)
    stood = np.full((50, 1), 128)
    stood[7] = KNOB_UNKNOWN
    found = write_recording(
        tmp_path / "out", MODULE, windows, records,
        knobs={KNOB.name: KNOB}, stood=stood, tags={"a": "b"},
    )  # fmt: skip
    ((at, rows, knobs),) = found.windows()
    assert (at == windows["at"]).all()
    assert rows.tobytes() == windows["window"].tobytes()
    assert (knobs == stood).all()
    ((at, rows),) = found.records()
    assert (at == records["at"]).all()
    assert rows.tobytes() == records["record"].tobytes()
    assert found.meta.tags == {"a": "b"}
    assert found.meta.knobs == {KNOB.name: KNOB}
    assert found.cut == []


def test_a_file_describes_itself(tmp_path: Path) -> None:
    found = write_recording(tmp_path / "one.parquet", MODULE, made_windows(values(5)))
    assert [path.name for path in tmp_path.iterdir()] == ["one.parquet"]
    schema = parquet.read_schema(found.paths[0])
    assert schema.field("device_ns").metadata[b"unit"] == b"ns"
    assert schema.field("window.start_ns").metadata[b"unit"] == b"ns"
    assert all(field.metadata[b"help"] for field in schema)
    assert found.meta.clock.base == "CLOCK_MONOTONIC"
    assert found.meta.host.kernel == os.uname().release


def test_cut_anywhere(tmp_path: Path) -> None:
    """A stream that ends in the middle of a batch gives the batches before it."""
    path = tmp_path / "out"
    path.mkdir()
    meta = write_recording(tmp_path / "x", MODULE, made_windows(values(1))).meta
    part = Part(path / "p.000001", meta)
    ends = [part.size]
    for _ in range(3):
        part.write(columns_of(meta, made_windows(values(20))))
        ends.append(part.size)
    part.abandon()
    stream = path / "p.000001.arrows"
    whole = stream.read_bytes()
    for size in (*ends[1:], *(end - 1 for end in ends[1:]), *range(ends[1] + 1, ends[2], 97)):
        stream.write_bytes(whole[:size])
        (found,) = open_recordings(path)
        batches = sum(end <= size for end in ends[1:])
        assert sum(len(rows) for _, rows, _ in found.windows()) == 20 * batches
    for size in (0, 10, 300):
        stream.write_bytes(whole[:size])
        with pytest.raises(RecordingError, match="nothing was recorded"):
            open_recordings(path)
