# SPDX-License-Identifier: Apache-2.0
"""What root runs must be root's: nobody else may be able to change it.

Holds for a file or a folder, all that is in it, and all folders above, symbolic links
followed. Folders above kmind itself are not asked, for who can write there can replace
kmind. Whoever is not root risks only what is theirs, and nothing is asked then.
"""

from __future__ import annotations

import os
import stat
from itertools import islice
from pathlib import Path

import kmind
from kmind.errors import ModuleError

__all__ = ["refuse_untrusted"]

_ABOVE_KMIND = frozenset(Path(kmind.__file__).resolve().parent.parents)
_MOST = 4096


def refuse_untrusted(path: Path) -> None:
    """Raise ModuleError, with the reason, if another user than root could change it."""
    if os.geteuid() != 0:
        return
    asked: set[Path] = set()
    for each in (path, *_below(path)) if path.is_dir() else (path,):
        try:
            real = each.resolve(strict=True)
        except (OSError, RuntimeError):
            raise ModuleError(
                f"{each} leads nowhere", hint="take the link out, or put its file there"
            ) from None
        for file in (real, *real.parents):
            if file in asked or file in _ABOVE_KMIND:
                break
            asked.add(file)
            _ask(file, above=file != real)


def _below(folder: Path) -> list[Path]:
    # Bounded, for what is named may be no module at all, but the root of a disk.
    found = list(islice(folder.rglob("*"), _MOST + 1))
    if len(found) > _MOST:
        raise ModuleError(
            f"{folder} holds more than {_MOST} files", hint="name the folder of one module"
        )
    return sorted(found)


def _ask(path: Path, *, above: bool) -> None:
    status = path.stat()
    if status.st_uid != 0:
        raise ModuleError(
            f"{path} belongs to user {status.st_uid}, and root relies on it",
            hint=f"chown -R root: {path}, once you have read it",
        )
    # In a sticky folder, as /tmp, others cannot replace what is root's.
    sticky = above and status.st_mode & stat.S_ISVTX
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
        others = "everybody" if status.st_mode & stat.S_IWOTH else f"group {status.st_gid}"
        raise ModuleError(
            f"{path} can be written to by {others} (mode {stat.S_IMODE(status.st_mode):04o}), "
            "and root relies on it",
            hint=f"chmod -R go-w {path}, once you have read it",
        )
