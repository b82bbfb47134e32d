# SPDX-License-Identifier: Apache-2.0
"""State that an extension keeps for its next start: written by it, read by its owner.

It lies in the arena, after the status: a header, then text. ``seq`` is odd while it is
written, and changes each time; so a reader takes a whole text, or none.
"""

from __future__ import annotations

import zlib

import numpy as np

from kmind.abi import layout
from kmind.queue.layout import Bytes, Geometry

__all__ = ["MEMORY_MOST", "MemoryReader", "write_memory"]

_HEADER = layout.MEMORY.itemsize
_REGION = layout.LIMIT["MEMORY_SIZE"]

MEMORY_MOST = _REGION - _HEADER
"""Bytes of text that fit."""


def _region(arena: Bytes, geometry: Geometry) -> Bytes:
    start = geometry.status + layout.LIMIT["STATUS_SIZE"]
    return arena[start : start + _REGION]


def write_memory(arena: Bytes, geometry: Geometry, text: bytes) -> None:
    """Leave ``text`` (at most ``MEMORY_MOST`` bytes) for the owner. One thread may call it."""
    region = _region(arena, geometry)
    header = region[:_HEADER].view(layout.MEMORY)
    seq = int(header["seq"][0]) | 1
    header["seq"][0] = seq
    region[_HEADER : _HEADER + len(text)] = np.frombuffer(text, np.uint8)
    header["length"][0] = len(text)
    header["check"][0] = zlib.crc32(text)
    header["seq"][0] = (seq + 1) & 0xFFFFFFFF


class MemoryReader:
    """The owner's look: every word is hostile, so it is copied once, then checked."""

    def __init__(self, arena: Bytes, geometry: Geometry) -> None:
        self._region = _region(arena, geometry)
        self._seq = 0

    def changed(self) -> bool:
        """True if there is a text that the last ``take`` has not returned."""
        seq = int(self._header()["seq"])
        return seq != self._seq and not seq & 1

    def take(self) -> bytes | None:
        """The text, or None where it is not whole: it was being written, or was never right."""
        header = self._header()
        length = int(header["length"])
        if int(header["seq"]) & 1:
            return None
        self._seq = int(header["seq"])
        if length > MEMORY_MOST:
            return None
        text = self._region[_HEADER : _HEADER + length].tobytes()
        return text if zlib.crc32(text) == int(header["check"]) else None

    def _header(self) -> np.void:
        copy: np.void = self._region[:_HEADER].copy().view(layout.MEMORY)[0]
        return copy
