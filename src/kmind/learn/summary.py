# SPDX-License-Identifier: Apache-2.0
"""A recording in numbers: span, counts, losses, gaps, and how each feature is spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.learn._tables import ReplayedTable
from kmind.learn.meta import Meta
from kmind.learn.recording import Recording, decode_records
from kmind.learn.schema import KNOB_UNKNOWN

__all__ = ["summarise"]

_GAP_NS = 1_000_000  # windows that are further apart than that have a gap between them
_MOST_SAMPLES = 1 << 22  # of records, for quantiles

_Array = npt.NDArray[Any]


def summarise(recording: Recording) -> dict[str, Any]:
    """One instance: JSON can hold it."""
    meta = recording.meta
    windows = [(rows, knobs) for _, rows, knobs in recording.windows()]
    summary: dict[str, Any] = {
        "instance": meta.instance,
        "module": meta.module,
        "version": meta.version,
        "backend": meta.backend,
        "abi": meta.abi,
        "kmind": meta.kmind,
        "host": msgspec.to_builtins(meta.host),
        "clock": msgspec.to_builtins(meta.clock),
        "params": meta.params,
        "missing": meta.missing,
        "tags": meta.tags,
        "sweep": {name: list(values) for name, values in meta.sweep.items()},
        "counts": msgspec.to_builtins(meta.counts),
        "cut": [path.name for path in recording.cut],
        "files": len(recording.paths),
        "bytes": sum(map(_size, recording.paths)),
    }
    summary |= _windows(meta, windows)
    summary |= _records(meta, recording)
    summary["tables"] = _tables(meta, recording)
    return summary


def _windows(meta: Meta, batches: list[tuple[_Array, _Array]]) -> dict[str, Any]:
    if not batches:
        return {"windows": 0, "span_s": 0.0, "start": None, "gaps": [], "features": [], "knobs": {}}
    rows = np.concatenate([windows for windows, _ in batches])
    knobs = np.concatenate([values for _, values in batches])
    start, end = rows["start_ns"].astype(np.int64), rows["end_ns"].astype(np.int64)
    holes = start[1:] - end[:-1]
    missing = np.diff(rows["seq"].astype(np.int64)) - 1
    gaps = [
        {
            "at_s": round(float(end[n] - start[0]) / 1e9, 3),
            "seconds": round(float(holes[n]) / 1e9, 3),
            "windows": int(max(missing[n], 0)),
        }
        for n in np.flatnonzero((holes > _GAP_NS) | (missing > 0))
    ]
    seconds = np.maximum((end - start) / 1e9, 1e-9)
    features = []
    for column, feature in enumerate(meta.features):
        values = rows["value"][:, column].astype(np.float64)
        if feature.kind == "counter":
            values = values / seconds
        features.append(
            {
                "name": feature.name,
                "kind": feature.kind,
                "unit": f"{feature.unit or '1'}/s" if feature.kind == "counter" else feature.unit,
                **_spread(values),
            }
        )
    return {
        "windows": len(rows),
        "span_s": round(float(end[-1] - start[0]) / 1e9, 3),
        "start": round((int(start[0]) + meta.clock.realtime_ns) / 1e9, 3),
        "gaps": gaps,
        "features": features,
        "knobs": {name: _stood(knobs[:, n]) for n, name in enumerate(meta.knobs)},
    }


def _stood(column: _Array) -> dict[str, int]:
    # Value to windows, "" for those in which it changed.
    values, counts = np.unique(column, return_counts=True)
    return {
        "" if value == KNOB_UNKNOWN else str(value): int(count)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True)
    }


def _records(meta: Meta, recording: Recording) -> dict[str, Any]:
    total, kept = 0, []
    for _, batch in recording.records():
        if total < _MOST_SAMPLES:
            kept.append(batch)
        total += len(batch)
    rows = np.concatenate(kept) if kept else np.zeros(0, layout.RECORD)
    kinds = []
    for name, columns in decode_records(meta, rows).items():
        units = {f.name: f.unit for k in meta.kinds if k.name == name for f in k.fields}
        count = len(columns["cpu"])
        kinds.append(
            {
                "name": name,
                "records": count,
                "fields": [
                    {"name": field, "unit": units[field], **_spread(column.astype(np.float64))}
                    for field, column in columns.items()
                    if field in units and count
                ],
            }
        )
    return {"records": total, "kinds": kinds}


def _tables(meta: Meta, recording: Recording) -> list[dict[str, Any]]:
    found = []
    for part in meta.tables:
        table, changes = ReplayedTable(part), 0
        for rows in recording.tables(part.name):
            table.apply(rows)
            changes += len(rows)
        used = len(table.table)
        found.append({"name": part.name, "rows": part.rows, "used": used, "changes": changes})
    return found


def _spread(values: _Array) -> dict[str, float]:
    low, middle, high, top = np.percentile(values, [0, 50, 99, 100])
    return {"min": float(low), "median": float(middle), "p99": float(high), "max": float(top)}


def _size(path: Path) -> int:
    return path.stat().st_size
