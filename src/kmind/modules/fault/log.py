# SPDX-License-Identifier: Apache-2.0
"""The log of what was injected, and when: JSON lines.

Each line has ``event`` and ``at_ns``, nanoseconds since the disk began; requests are numbered from
0 on in the order in which they came.

| event | fields |
|---|---|
| begin | seed, size, version |
| delay | first: the number of the first request of a batch; delay_ns: one for each |
| fail | request, op, offset, length, error |
| cut | request: the first that was not served; choice, kept, lost, torn |
"""

from __future__ import annotations

import errno
import json
import time
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from kmind.driver import Batch, Op
from kmind.modules.fault.cache import CutReport

__all__ = ["InjectionLog"]

_VERSION = 1


class InjectionLog:
    """Writes to ``file``, or nowhere; each event is flushed, but delays are left to the buffer."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file
        self._began = time.monotonic_ns()

    def elapsed_ns(self) -> int:
        """Time since the disk began."""
        return time.monotonic_ns() - self._began

    def begin(self, seed: int, size: int) -> None:
        """The disk's seed and its bytes."""
        self._add("begin", seed=seed, size=size, version=_VERSION)

    def delays(self, first: int, at_ns: int, delay_ns: npt.NDArray[np.int64]) -> None:
        """The latencies of a batch."""
        if self._file is not None and delay_ns.any():
            record = {"event": "delay", "at_ns": at_ns, "first": first}
            self._file.write(json.dumps(record | {"delay_ns": delay_ns.tolist()}) + "\n")

    def failures(self, batch: Batch, first: int, bad: npt.NDArray[np.bool_], error: int) -> None:
        """The requests of a batch that fail."""
        for index in np.flatnonzero(bad).tolist():
            self._add(
                "fail",
                request=first + index,
                op=Op(int(batch.op[index])).name.lower(),
                offset=int(batch.offset[index]),
                length=int(batch.length[index]),
                error=errno.errorcode[error],
            )

    def cut(self, request: int, report: CutReport) -> None:
        """The power was cut."""
        choice = {"choice": report.choice, "kept": report.kept, "lost": report.lost}
        self._add("cut", request=request, **choice, torn=report.torn)

    def _add(self, event: str, **fields: Any) -> None:
        if self._file is not None:
            record = {"event": event, "at_ns": self.elapsed_ns(), **fields}
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
