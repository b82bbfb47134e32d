# SPDX-License-Identifier: Apache-2.0
"""Knobs of one zram device.

There is one. Nothing else can be changed, and changed back, on a device that is in use:
max_comp_streams has no effect any more (Linux 4.7), disksize needs a reset, which drops
what is stored, and mem_limit can be written but not read, and fails writes once it is
reached.
"""

from __future__ import annotations

from kmind.knobs._base import Knob
from kmind.knobs.zswap import COMPRESSORS

__all__ = ["KNOBS"]

KNOBS = (
    Knob(
        name="zram.comp_algorithm",
        target="block",
        path="sys/block/{name}/comp_algorithm",
        summary="compression algorithm of a zram device",
        reference="Documentation/admin-guide/blockdev/zram.rst",
        kind="enum",
        choices=COMPRESSORS,
        note="Possible only before the device is set up (disksize); later the kernel refuses it.",
        cost="none",
        cost_why="A device that is not set up holds no data.",
    ),
)
"""All knobs of this family."""
