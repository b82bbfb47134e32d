# SPDX-License-Identifier: Apache-2.0
"""Latencies of a disk's requests, out of what ``kmind record`` of blockio kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from kmind.errors import UsageError
from kmind.learn.recording import decode_records, open_recordings

__all__ = ["read_latencies"]


def read_latencies(path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Latencies of reads and of writes in nanoseconds, in the order in which they were done.

    Raises KmindError, in one line, for what is damaged, holds several disks, or was recorded of
    another module.
    """
    recordings = open_recordings(path)
    names = [one.meta.instance for one in recordings]
    if len(recordings) != 1:
        raise UsageError(
            f"{path} holds {len(recordings)} recordings: {', '.join(names)}",
            hint="name the files of one disk",
        )
    kinds: dict[str, list[npt.NDArray[np.uint64]]] = {"read": [], "write": []}
    for _, records in recordings[0].records():
        decoded = decode_records(recordings[0].meta, records)
        for kind, parts in kinds.items():
            latency = decoded.get(kind, {}).get("latency")
            if latency is None:
                raise UsageError(f"{path} is of {names[0]}, not of blockio")
            parts.append(latency)
    reads, writes = (_joined(parts) for parts in kinds.values())
    if not len(reads) + len(writes):
        raise UsageError(f"{path} has no request", hint="record while the disk is in use")
    return reads, writes


def _joined(parts: list[npt.NDArray[np.uint64]]) -> npt.NDArray[np.int64]:
    # 40 bits each: they fit.
    return np.concatenate([np.zeros(0, np.uint64), *parts]).astype(np.int64)
