# SPDX-License-Identifier: Apache-2.0
"""Latencies come out of a recording of blockio, and of nothing else."""

from pathlib import Path

import numpy as np
import pytest

from kmind.abi import layout
from kmind.errors import KmindError
from kmind.extension import find_module
from kmind.learn.latencies import read_latencies
from kmind.learn.schema import STORED_RECORD
from kmind.testing.recordings import made_windows, write_recording


def recorded(path: Path, module: str, records: np.ndarray) -> Path:
    rows = np.zeros(len(records), STORED_RECORD)
    rows["record"] = records
    found = find_module(module)
    windows = made_windows(np.zeros((1, len(found.manifest.features))))
    write_recording(path, found, windows, rows)
    return path


def test_a_recording_of_a_disk_gives_its_reads_and_writes_in_order(tmp_path: Path) -> None:
    records = np.zeros(5, layout.RECORD)
    records["kind"] = layout.KIND["MODULE"] + np.array([0, 1, 0, 0, 1])
    # Beside the latency the word holds the depth, which is no part of it.
    records["value"] = np.array([100, 200, 300, 50, 70], np.uint64) | np.uint64(5 << 40)
    reads, writes = read_latencies(recorded(tmp_path, "blockio", records))
    assert (reads.tolist(), writes.tolist()) == ([100, 300, 50], [200, 70])


def test_a_recording_of_another_module_or_of_nothing_is_refused(tmp_path: Path) -> None:
    records = np.zeros(1, layout.RECORD)
    records["kind"] = layout.KIND["MODULE"]
    with pytest.raises(KmindError, match="of dirty@vda, not of blockio"):
        read_latencies(recorded(tmp_path / "dirty", "dirty", records))
    with pytest.raises(KmindError, match="has no request"):
        read_latencies(recorded(tmp_path / "none", "blockio", records[:0]))
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 but not for long")
    with pytest.raises(KmindError, match="cannot be read") as caught:
        read_latencies(tmp_path / "damaged.parquet")
    assert "\n" not in str(caught.value)
    with pytest.raises(KmindError, match="there is no"):
        read_latencies(tmp_path / "nowhere")
