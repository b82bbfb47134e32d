# SPDX-License-Identifier: Apache-2.0
"""The bench of replays: its numbers are there, and what it computes is what the agent does."""

import numpy as np
import pytest

from kmind.bench import replay


def test_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_QUICK_RECORDS", 20_000)
    found = replay.run_replay_bench(quick=True)
    assert found["schema"] == "kmind.bench.replay/1"
    assert (found["records"], found["windows"]) == (20_000, 4)
    for name in ("replay_records_per_s", "replay_dispatch_per_s"):
        assert found[name] > 0
        assert found[f"{name}_spread"] >= 0


def test_strides_are_those_of_each_file() -> None:
    rng = np.random.default_rng(5)
    # Three files that share no place in the agent's table.
    inode = np.array([1, 2, 3], np.uint32)[rng.integers(0, 3, 500)]
    page = rng.integers(0, 1 << 22, 500).astype(np.uint64)
    most = 1 << 20
    last: dict[int, tuple[int, int]] = {}
    strides = spreads = 0
    for file, place in zip(inode.tolist(), page.tolist(), strict=True):
        if file in last:
            before, stride_before = last[file]
            stride = place - before
            strides += min(abs(stride), most)
            spreads += min(abs(stride - stride_before), most)
            last[file] = place, stride
        else:
            last[file] = place, 0
    assert replay._stride_features(inode, page) == (500, strides, spreads)
