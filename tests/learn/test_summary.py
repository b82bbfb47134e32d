# SPDX-License-Identifier: Apache-2.0
"""Text of kmind inspect about a recording."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kmind.cli.main import main
from kmind.learn.recording import decode_records
from kmind.learn.summary import summarise
from kmind.testing.recordings import made_records, made_windows, write_recording

if TYPE_CHECKING:
    from conftest import RecordDisk
from learn.replayed import FEATURES, MODULE, made


def test_inspect(tmp_path: Path, record_disk: "RecordDisk", capfd: Any) -> None:
    recording = record_disk(tmp_path / "out")
    found = summarise(recording)
    assert (found["windows"], found["span_s"], found["gaps"]) == (40, 4.0, [])
    assert found["records"] == found["kinds"][0]["records"] == 800
    assert found["kinds"][0]["name"] == "miss"
    assert found["kinds"][0]["fields"][0] == {
        "name": "inode", "unit": "1", "min": 7.0, "median": 7.5, "p99": 8.0, "max": 8.0,
    }  # fmt: skip
    faults = next(f for f in found["features"] if f["name"] == "fault_misses")
    assert faults["unit"] == "1/s"
    assert 0 < faults["median"] <= faults["p99"] <= faults["max"]
    assert list(found["knobs"]) == ["block.read_ahead_kb"]
    assert found["backend"] == "sim"
    assert main(["inspect", str(tmp_path / "out"), "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["schema"] == "kmind.inspect/1"
    assert report["recordings"] == [found]
    assert main(["inspect", str(tmp_path / "out")]) == 0
    text = capfd.readouterr().out
    assert "readahead@" in text
    assert "simulated" in text
    assert "fault_misses" in text


def test_inspect_names_gaps(tmp_path: Path) -> None:
    windows = made_windows(np.zeros((20, FEATURES)))
    found = summarise(write_recording(tmp_path / "out", MODULE, np.delete(windows, [5, 6])))
    assert found["gaps"] == [{"at_s": 0.5, "seconds": 0.2, "windows": 2}]


def test_fields_of_records(tmp_path: Path) -> None:
    meta = made(tmp_path / "out").meta
    rows = made_records(10, 1)["record"]
    columns = decode_records(meta, rows)["miss"]
    assert (columns["page"] == rows["value"]).all()
    assert (columns["inode"] == rows["subject"]).all()
