# SPDX-License-Identifier: Apache-2.0
"""Carrying a change to what the kernel copied the knob's value into before."""

from __future__ import annotations

from kmind.knobs import Knob, Target, Value

__all__ = ["propagate"]


def propagate(knob: Knob, target: Target, old: Value | None, new: Value) -> str:
    """Do the step that the knob names, and say what it did in a few words, or ""."""
    return ""
