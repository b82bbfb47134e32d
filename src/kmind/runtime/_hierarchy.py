# SPDX-License-Identifier: Apache-2.0
"""Which cgroup hierarchies are mounted, of version 1 and 2, and where in them to begin."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Hierarchy", "find_hierarchies", "is_delegated"]


@dataclass(frozen=True)
class Hierarchy:
    """One mounted hierarchy. ``controllers`` are those of a hierarchy of version 1.

    ``base`` is the folder below which cgroups of our own go: the own cgroup of this
    process, or the one above it, where that was handed to it (systemd's Delegate=);
    else the top.
    """

    version: int
    base: Path
    controllers: frozenset[str]
    delegated: bool


def is_delegated(folder: Path) -> bool:
    """Whether systemd marked a cgroup as handed over (systemd.resource-control(5))."""
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(folder, name) == b"1":
                return True
        except OSError:
            continue
    return False


def find_hierarchies(
    mountinfo: str, cgroups: str, delegated: Callable[[Path], bool] = is_delegated
) -> list[Hierarchy]:
    """What ``/proc/self/mountinfo`` and ``/proc/self/cgroup`` say (proc(5), cgroups(7))."""
    own: dict[str, str] = {}
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):  # "" for version 2
            own[controller] = path
    found: dict[frozenset[str], Hierarchy] = {}
    for line in mountinfo.splitlines():
        mount, _, system = line.partition(" - ")
        kind, _, options = system.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind == "cgroup2" else 1
        named = frozenset(options.split(",") if version == 1 else [""]).intersection(own)
        if not named or named in found:
            continue  # name=systemd and the like; or mounted a second time
        top, point = (_unescape(word) for word in mount.split(" ")[3:5])
        folder = _below(Path(point), top, own.get(min(named), "/"))
        base = next((f for f in folder if delegated(f)), None)
        found[named] = Hierarchy(version, base or Path(point), named - {""}, base is not None)
    return list(found.values())


def _below(point: Path, top: str, path: str) -> list[Path]:
    # The own cgroup and the one above, as far as this mount shows them.
    try:
        inner = Path(path).relative_to(top)
    except ValueError:
        return []
    if ".." in inner.parts or not inner.parts:
        return []
    return [point / inner, *([(point / inner).parent] if len(inner.parts) > 1 else [])]


def _unescape(word: str) -> str:
    # mountinfo writes a blank as \040.
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)
