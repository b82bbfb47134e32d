# SPDX-License-Identifier: Apache-2.0
"""Recordings that were made up are as real ones: in order, whole, and the same for one seed."""

from pathlib import Path

import numpy as np
from learn.written import MODULE, values

from kmind.abi import layout
from kmind.testing.recordings import made_records, made_windows, write_recording


def test_windows_follow_one_another() -> None:
    windows = made_windows(values(20), window_s=0.5)["window"]
    assert (windows["end_ns"] - windows["start_ns"] == 500_000_000).all()
    assert (windows["start_ns"][1:] == windows["end_ns"][:-1]).all()
    assert (windows["commit"] == windows["seq"] + 1).all()
    assert (windows["mode"] == layout.MODE["OBSERVE"]).all()


def test_records_are_spread_over_windows_and_cpus() -> None:
    rows = made_records(1000, 10, cpus=4)
    assert np.bincount(rows["at"]).tolist() == [100] * 10
    assert set(rows["record"]["cpu"]) == {0, 1, 2, 3}
    assert made_records(1000, 10, cpus=4).tobytes() == rows.tobytes()
    assert made_records(1000, 10, cpus=4, seed=1).tobytes() != rows.tobytes()


def test_meta_can_be_replaced(tmp_path: Path) -> None:
    found = write_recording(
        tmp_path / "out", MODULE, made_windows(values(3)), target="sda", window_s=2.0
    )
    assert (found.meta.target, found.meta.window_s) == ("sda", 2.0)
    assert found.meta.module == MODULE.manifest.name
