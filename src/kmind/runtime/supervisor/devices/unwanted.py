# SPDX-License-Identifier: Apache-2.0
"""Instances that the admin has unloaded: not loaded by themselves again."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

__all__ = ["Unwanted"]


class Unwanted:
    """Names of instances that the admin has unloaded, kept in a file below /run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._names = set(msgspec.json.decode(path.read_bytes(), type=list[str]))
        except Exception:  # whatever is wrong with it: each may come back
            self._names = set()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def add(self, name: str) -> None:
        """It was unloaded."""
        self._names.add(name)
        self._write()

    def discard(self, name: str) -> None:
        """It was loaded by name."""
        if name in self._names:
            self._names.discard(name)
            self._write()

    def clear(self) -> None:
        """The daemon ends for good: the next one begins anew."""
        self._names.clear()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        partial = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):  # then it may come back at the next start
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial.write_bytes(msgspec.json.encode(sorted(self._names)))
            partial.replace(self._path)
