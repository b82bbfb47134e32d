# SPDX-License-Identifier: Apache-2.0
"""The block I/O extension: shows what the disk does, and reports requests that failed.

The records themselves are for `kmind record`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.extension import Context, Extension

__all__ = ["BlockIo"]

_OPS = ("read", "write")
_FILE_S = 10.0  # between two reports of one kind of request
_LAST = 200  # failed requests whose records are kept
# Where module.toml has the fields of a record.
_KIND_MODULE = 64
_FAILED = np.uint64(1) << np.uint64(56)
_LATENCY = (np.uint64(1) << np.uint64(40)) - np.uint64(1)
_DEPTH_SHIFT, _DEPTH = np.uint64(40), np.uint64(0xFFFF)
_SECTORS = 0xFFFF
_HEADER = "time_ns,latency_ns,in_flight,sectors"


class _Failures:
    """Failed requests of one kind that were not reported yet, and the last ones of all."""

    def __init__(self) -> None:
        self.count = 0
        self.last: deque[str] = deque(maxlen=_LAST)
        self.reported_at: float | None = None

    def add(self, records: npt.NDArray[np.void]) -> None:
        """Count them, and keep the last."""
        self.count += len(records)
        for record in records[-_LAST:]:
            value = record["value"]
            latency, depth = value & _LATENCY, value >> _DEPTH_SHIFT & _DEPTH
            sectors = int(record["subject"]) & _SECTORS
            self.last.append(f"{record['time_ns']},{latency},{depth},{sectors}")

    def text(self) -> bytes:
        """The last ones as CSV."""
        return "\n".join([_HEADER, *self.last, ""]).encode()


class BlockIo(Extension):
    """One disk's requests."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._rates = dict.fromkeys(context.features, 0.0)  # a second, of the last window
        self._records = 0
        self._failures = {op: _Failures() for op in _OPS}

    def on_windows(self, windows: npt.NDArray[np.void]) -> None:
        """Keep the last one's rates, and report what failed."""
        last = windows[-1]
        seconds = max((int(last["end_ns"]) - int(last["start_ns"])) / 1e9, 1e-3)
        values = last["value"].tolist()
        self._rates = {name: values[at] / seconds for name, at in self.context.features.items()}
        self._report()

    def on_records(self, records: npt.NDArray[np.void]) -> None:
        """Count them, and report what failed."""
        self._records += len(records)
        failed = records[(records["value"] & _FAILED) != 0]
        for number, op in enumerate(_OPS):
            of_kind = failed[failed["kind"] == _KIND_MODULE + number]
            if len(of_kind):
                self._failures[op].add(of_kind)
        self._report()

    def _report(self) -> None:
        now = self.context.now()
        for op, failures in self._failures.items():
            at = failures.reported_at
            if not failures.count or (at is not None and at <= now < at + _FILE_S):
                continue
            self.context.file_report(
                "failed_requests",
                signature=f"{op}s fail",
                title=f"The disk fails {op}s.",
                count=failures.count,
                evidence={"records": len(failures.last)},
                files={f"{op}s.csv": failures.text()},
            )
            failures.count, failures.reported_at = 0, now

    def status(self) -> Mapping[str, Any]:
        """Requests a second, their bytes and mean times."""
        rates = self._rates
        shown: dict[str, Any] = {"records": self._records, "errors_per_s": round(rates["errors"])}
        for op in _OPS:
            count = rates[f"{op}s"]
            shown[f"{op}s_per_s"] = round(count)
            shown[f"{op}_mb_per_s"] = round(rates[f"{op}_bytes"] / 1e6, 1)
            shown[f"{op}_us"] = round(rates[f"{op}_ns"] / count / 1e3, 1) if count else 0.0
        return shown
