# SPDX-License-Identifier: Apache-2.0
"""Sections behind a header, aligned to 16 bytes, as they are put into an image."""

from __future__ import annotations

from typing import Any

import numpy as np

from kmind.infer.integer import Step
from kmind.infer.slot import STEP

__all__ = ["STEP", "Writer"]

_ALIGN = 16


class Writer:
    """``data`` so far; it begins with room for the header."""

    def __init__(self, header: int) -> None:
        self.data = bytearray(header)

    def put(self, array: np.ndarray[Any, Any]) -> int:
        """Append an array; its offset."""
        self.data += bytes(-len(self.data) % _ALIGN)
        at = len(self.data)
        self.data += array.tobytes()
        self.data += bytes(-len(self.data) % _ALIGN)
        return at

    def step(self, step: Step) -> Any:
        """``struct km_step``; its table is appended."""
        record: Any = np.zeros((), STEP)
        for name in ("add", "mul", "lo", "hi", "shift"):
            record[name] = getattr(step, name)
        if step.table is not None:
            record["table"] = self.put(step.table)
            record["table_size"] = len(step.table)
        return record
