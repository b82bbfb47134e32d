# SPDX-License-Identifier: Apache-2.0
"""Find the mounted cgroup hierarchies, of version 1 and 2."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Hierarchy", "find_hierarchies"]


@dataclass(frozen=True)
class Hierarchy:
    """One mounted hierarchy. ``controllers`` are those of a hierarchy of version 1.

    ``base`` is its top: cgroups of our own go below it. Not below that of a service:
    systemd could not start the service again while extensions of a daemon that died stay
    there (in version 2 only leaves have processes), before its DelegateSubgroup= of v254.
    """

    version: int
    base: Path
    controllers: frozenset[str]


def find_hierarchies(mountinfo: str, cgroups: str) -> list[Hierarchy]:
    """Parse ``/proc/self/mountinfo`` and ``/proc/self/cgroup`` (proc(5), cgroups(7))."""
    # Each line of cgroups is number:controllers:path, with no controllers for version 2.
    known = {word for line in cgroups.splitlines() for word in line.split(":")[1].split(",")}
    hierarchies: dict[frozenset[str], Hierarchy] = {}
    for line in mountinfo.splitlines():
        mount, _, system = line.partition(" - ")
        kind, _, options = system.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind == "cgroup2" else 1
        named = frozenset(options.split(",") if version == 1 else [""]).intersection(known)
        if not named or named in hierarchies:
            continue  # name=systemd and the like; or mounted a second time
        point = Path(_unescape(mount.split(" ")[4]))
        hierarchies[named] = Hierarchy(version, point, named - {""})
    return list(hierarchies.values())


def _unescape(word: str) -> str:
    # mountinfo writes a blank as \040.
    return re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), word)
