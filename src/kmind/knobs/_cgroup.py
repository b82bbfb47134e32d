# SPDX-License-Identifier: Apache-2.0
"""Find the mount points of the cgroup hierarchies."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["cgroup_mounts"]


def cgroup_mounts(root: Path) -> dict[str, Path]:
    """Controller of version 1, or "" for version 2, to its mount point, by proc(5)'s mounts.

    Of what is mounted twice the first counts. Empty where /proc is not to be read.
    """
    try:
        lines = (root / "proc/self/mounts").read_text().splitlines()
    except OSError:
        return {}
    folders: dict[str, Path] = {}
    for line in lines:
        _, place, kind, options, *_ = line.split(" ")
        if kind not in ("cgroup", "cgroup2"):
            continue
        place = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), place)
        names = options.split(",") if kind == "cgroup" else [""]
        for name in names:
            folders.setdefault(name, root / place.lstrip("/"))
    return folders
