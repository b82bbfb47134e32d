# SPDX-License-Identifier: Apache-2.0
"""Backends that read and write knobs: one file per backend, each with one instance of its class.

A knob's record names its backend, and `Knob` calls it. Nothing else does, so that a new
backend is one new file here: see docs/knobs.md.
"""

from __future__ import annotations

from kmind.knobs.backend._base import Backend, Guard, SysctlGuard, SysfsGuard
from kmind.knobs.backend.file import FILE

__all__ = ["FILE", "Backend", "Guard", "SysctlGuard", "SysfsGuard"]
