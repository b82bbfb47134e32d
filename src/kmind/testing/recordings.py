# SPDX-License-Identifier: Apache-2.0
"""Recordings that were never recorded: made-up windows and records, written as real ones are."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.agent.types import Grant
from kmind.extension import KnobInfo, Module
from kmind.learn.meta import Clock, GrantFor, Host, Meta, Stream
from kmind.learn.recording import Recording, open_recordings
from kmind.learn.schema import STORED_RECORD, STORED_WINDOW
from kmind.learn.writer import Writer, open_output

__all__ = ["made_records", "made_windows", "write_recording"]

_Array = npt.NDArray[Any]

_BOUND = 8 << 30
_AT_ONCE = 1 << 16
_START_NS = 1_000_000_000_000


def made_windows(values: _Array, *, window_s: float = 0.1) -> _Array:
    """``STORED_WINDOW`` from features of shape (windows, features), one after another."""
    count, features = values.shape
    rows = np.zeros(count, STORED_WINDOW)
    rows["at"] = np.arange(count)
    windows = rows["window"]
    windows["seq"] = np.arange(count)
    windows["commit"] = windows["seq"] + 1
    windows["mode"] = layout.MODE["OBSERVE"]
    windows["start_ns"] = _START_NS + np.arange(count) * int(window_s * 1e9)
    windows["end_ns"] = windows["start_ns"] + np.uint64(window_s * 1e9)
    windows["value"][:, :features] = values
    return rows


def made_records(count: int, windows: int, *, cpus: int = 2, seed: int = 0) -> _Array:
    """``STORED_RECORD`` of kind 0, spread evenly over windows and CPUs, of a few subjects."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(count, STORED_RECORD)
    rows["at"] = np.arange(count) * windows // count
    records = rows["record"]
    records["kind"] = layout.KIND["MODULE"]
    place = np.arange(count) - np.searchsorted(rows["at"], rows["at"])
    records["cpu"] = place * cpus * windows // count % cpus
    records["seq"] = np.arange(count)
    records["commit"] = records["seq"] + 1
    records["subject"] = rng.integers(1, 6, count)
    records["value"] = rng.integers(0, 1 << 18, count)
    return rows


def write_recording(
    path: Path,
    module: Module,
    windows: _Array,
    records: _Array | None = None,
    *,
    knobs: Mapping[str, KnobInfo] | None = None,
    stood: _Array | None = None,
    tags: Mapping[str, str] | None = None,
    max_bytes: int = _BOUND,
    **changed: Any,
) -> Recording:
    """Write them as `kmind record` would, of target vda; ``changed`` replaces fields of ``Meta``.

    ``stood`` are the knobs' values, shape (windows, knobs).
    """
    infos = dict(knobs or {})
    streams: list[tuple[Stream, _Array]] = [("windows", windows)]
    if records is not None:
        streams.append(("records", records))
    writer = Writer(open_output(path), max_bytes, len(streams))
    for stream, rows in streams:
        fields: dict[str, Any] = {
            "instance": f"{module.manifest.name}@vda",
            "module": module.manifest.name,
            "version": module.manifest.version,
            "target": "vda",
            "stream": stream,
            "features": module.manifest.features,
            "kinds": module.manifest.records,
            "params": {},
            "knobs": infos,
            "grants": tuple(map(_grant, infos.values())),
            "host": Host.here(),
            "clock": Clock.here(),
            "window_s": 0.1,
            "backend": "sim",
            "tags": dict(tags or {}),
        }
        number = writer.add(Meta(**(fields | changed)))
        for start in range(0, len(rows), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            values = stood[part] if stood is not None and stream == "windows" else None
            while not writer.put(number, rows[part], values):
                time.sleep(0.001)  # unlike a kernel, we can wait
    writer.close()
    return open_recordings(path)[0]


def _grant(info: KnobInfo) -> GrantFor:
    grant = Grant(
        info.minimum, info.maximum, info.encode(info.baseline), type=info.kind, grid=info.grid
    )
    return GrantFor(knob=info.id, target=info.target_id, grant=grant)
