# SPDX-License-Identifier: Apache-2.0
"""Carrying a change to what the kernel copied the knob's value into before."""

from __future__ import annotations

import time
from pathlib import Path

from kmind.errors import KnobError
from kmind.guard.openfiles import refresh_open_files
from kmind.knobs import Knob, Target, Value

__all__ = ["propagate"]

_DRAIN_S = 0.03  # two windows of 8 MiB are read in that time at 560 MB/s


def propagate(knob: Knob, target: Target, olds: set[Value | None], new: Value) -> str:
    """Do the step that the knob names, and say what it did in a few words, or "".

    ``olds`` are the values that may have been copied; ``new`` the present one. Raises KnobError
    if the knob cannot be set to it again after it was drained.
    """
    if target.root != Path("/"):
        return ""  # files of a model, of which the kernel knows nothing
    if knob.propagate == "open_files" and isinstance(new, int):
        numbers = {v for v in olds if isinstance(v, int)}
        refreshed = refresh_open_files(target, numbers, new)
        if refreshed.streams and knob.drain is not None and knob.drain < new < max(numbers):
            _drain(knob, target, new, knob.drain)
        return str(refreshed)
    return ""


def _drain(knob: Knob, target: Target, value: int, drain: int) -> None:
    # A stream goes on with the largest window that it ever had: where readahead was started
    # ahead of time, the next window is never smaller than the last one (mm/readahead.c,
    # page_cache_async_ra; seen on 6.18, where lowering the value had no effect on a reader in
    # order). So readahead is switched off until what was read ahead is used up. That is
    # not for nothing: meanwhile each page that is read waits for the disk by itself.
    try:
        knob.write(target, drain)
    except KnobError:
        return  # it is lowered for files that are opened from now on
    try:
        refresh_open_files(target, value, drain)
        time.sleep(_DRAIN_S)
    finally:
        if knob.read(target) == drain:
            knob.write(target, value)
    refresh_open_files(target, drain, value)
