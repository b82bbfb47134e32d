# SPDX-License-Identifier: Apache-2.0
"""Measure how fast a recording goes through a module again.

A recording of readahead with its records (one for each miss, ``events=true``) is made up
and written as `kmind record` writes it; what is timed is all of a replay, from the Parquet
files to the end: reading, decompressing, putting the streams in order, the dispatcher,
readahead's own code on the windows, and, in ``on_records``, the features that its agent
makes of misses (how many, their strides and the spread of those), computed anew.
``replay_dispatch_per_s`` is the same with the module as it is, which ignores the records.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.bench._results import Metric, describe_machine
from kmind.command import Flag, Option
from kmind.extension import Extension, find_module, parse_parameters
from kmind.learn.recording import Recording
from kmind.learn.replay import Replay, load_class
from kmind.testing.recordings import made_records, made_windows, write_recording

__all__ = ["OPTIONS", "SCHEMA", "run_replay_bench"]

OPTIONS: tuple[Option | Flag, ...] = ()
"""Options of its own, besides --quick and --json."""

SCHEMA = "kmind.bench.replay/1"

_RECORDS, _QUICK_RECORDS = 10_000_000, 2_000_000
_A_WINDOW = 5_000  # records: 50,000 misses a second, windows of 100 ms
_ROUNDS, _QUICK_ROUNDS = 7, 3

_Array = npt.NDArray[Any]


def run_replay_bench(*, quick: bool = False) -> dict[str, Any]:
    """Run the bench and return its result.

    Needs no root, and about 200 MB in the folder for temporary files.
    """
    count = _QUICK_RECORDS if quick else _RECORDS
    module = find_module("readahead")
    windows = count // _A_WINDOW
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1000, (windows, len(module.manifest.features)))
    plain = load_class(module)
    with tempfile.TemporaryDirectory(prefix="kmind-bench-") as scratch:
        path = Path(scratch, "recording")
        recording = write_recording(
            path, module, made_windows(values), made_records(count, windows)
        )
        size = sum(each.stat().st_size for each in recording.paths)
        rates: dict[str, list[float]] = {"replay_records_per_s": [], "replay_dispatch_per_s": []}
        for _ in range(_QUICK_ROUNDS if quick else _ROUNDS):
            rates["replay_records_per_s"].append(_rate(recording, count, _with_features(plain)))
            rates["replay_dispatch_per_s"].append(_rate(recording, count, plain))
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "quick": quick,
        "machine": describe_machine(),
        "records": count,
        "windows": windows,
        "bytes": size,
    }
    for name, found in rates.items():
        result |= Metric(name, found).as_json()
    return result


def _rate(recording: Recording, count: int, kind: type[Extension]) -> float:
    module = find_module("readahead")
    params = parse_parameters(module.manifest, [])
    replay = Replay(recording, module, params, extension_class=kind)
    started = time.perf_counter()
    replay.run()
    seconds = time.perf_counter() - started
    assert replay.records == count
    return count / seconds


def _with_features(base: type[Extension]) -> type[Extension]:
    class WithFeatures(base):  # type: ignore[valid-type,misc]
        """The module, and the features of its records computed from them."""

        def on_records(self, records: _Array) -> None:
            _stride_features(records["subject"], records["value"])

    return WithFeatures


def _stride_features(inode: _Array, page: _Array) -> tuple[int, int, int]:
    # Misses, sum of strides, sum of their spread: as readahead.bpf.c has them, by file.
    bucket = (inode.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)) & np.uint64(
        255
    )
    order = np.argsort(bucket.astype(np.uint8), kind="stable")  # a radix sort
    inode, page = inode[order], page[order].astype(np.int64)
    same = np.zeros(len(page), bool)
    same[1:] = inode[1:] == inode[:-1]
    stride = np.where(same, np.diff(page, prepend=0), 0)  # 0 for a file's first miss
    spread = np.where(same, np.diff(stride, prepend=0), 0)
    most = 1 << 20
    return (
        len(page),
        int(np.minimum(np.abs(stride), most).sum()),
        int(np.minimum(np.abs(spread), most).sum()),
    )
