# SPDX-License-Identifier: Apache-2.0
"""Carrying a change to what the kernel copied the knob's value into before."""

from __future__ import annotations

from pathlib import Path

from kmind.guard.openfiles import refresh_open_files
from kmind.knobs import Knob, Target, Value

__all__ = ["propagate"]


def propagate(knob: Knob, target: Target, olds: set[Value | None], new: Value) -> str:
    """Do the step that the knob names, and say what it did in a few words, or "".

    ``olds`` are the values that may have been copied; ``new`` the present one.
    """
    if target.root != Path("/"):
        return ""  # files of a model, of which the kernel knows nothing
    if knob.propagate == "open_files" and isinstance(new, int):
        return str(refresh_open_files(target, {v for v in olds if isinstance(v, int)}, new))
    return ""
