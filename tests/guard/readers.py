# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of openfiles and its neighbours."""

from __future__ import annotations

import os

from kmind.guard.openfiles import open_files
from kmind.knobs import Target, get_knob

READ_AHEAD = get_knob("block.read_ahead_kb")
PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


def readahead_kb(target: Target, pid: int) -> list[int]:
    """The readahead of the files on a disk that a process has open."""
    return [
        each.ra_pages * PAGE_KB
        for each in open_files()[0]
        if each.disk == target.id and each.tgid == pid
    ]
