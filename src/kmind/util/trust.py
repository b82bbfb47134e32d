# SPDX-License-Identifier: Apache-2.0
"""Check that only root can change the files that root runs or obeys.

Holds for a file or a folder, all that is in it, and all folders above, symbolic links
followed, as sshd and sudo ask it of their files. Folders above kmind itself are not asked, for
who can write there can replace kmind. Whoever is not root risks only what is theirs, and nothing
is asked then.
"""

from __future__ import annotations

import os
import stat
from itertools import islice
from pathlib import Path

import kmind
from kmind.errors import KmindError

__all__ = ["read_trusted", "refuse_untrusted"]

_ABOVE_KMIND = frozenset(Path(kmind.__file__).resolve().parent.parents)
_MOST = 4096
_MOST_BYTES = 1 << 20
_MOST_LINKS = 40  # as the kernel has it (MAXSYMLINKS)
# The path has no links left, and a FIFO that stands there is not to hold us up.
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def refuse_untrusted(path: Path, wrong: type[KmindError]) -> None:
    """Raise ``wrong``, with the reason, if another user than root could change it."""
    if os.geteuid() != 0:
        return
    asked: set[Path] = set()
    for place in (path, *_below(path, wrong)) if path.is_dir() else (path,):
        real = _resolved(place, wrong)
        for file in (real, *real.parents):
            if file in asked or file in _ABOVE_KMIND:
                break
            asked.add(file)
            _ask(file, file.stat(), wrong, above=file != real)


def read_trusted(path: Path, wrong: type[KmindError]) -> bytes:
    """The content of a plain file, of at most 1 MiB, that root goes by; of /dev/null: nothing.

    Links are root's too, and so are the folders that they are in. Raises ``wrong``, with the
    reason, if another user than root could change what is read, or it is no such file; OSError.
    """
    real = _follow(path.absolute(), wrong)
    if real == Path(os.devnull):
        return b""
    with os.fdopen(os.open(real, _FLAGS), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise wrong(f"{path} is not a regular file", hint="put a file there")
        if os.geteuid() == 0:  # of what was opened, not of what has that name
            _ask(real, status, wrong, above=False)
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise wrong(f"{path} has more than {_MOST_BYTES >> 20} MiB", hint="it is not kmind's")
    return data


def _follow(path: Path, wrong: type[KmindError]) -> Path:
    """Return the path's end, checking each folder on the way and the owner of each link."""
    for _ in range(_MOST_LINKS):
        folder = _resolved(path.parent, wrong)
        if os.geteuid() == 0:
            for above in (folder, *folder.parents):
                if above not in _ABOVE_KMIND:
                    _ask(above, above.stat(), wrong, above=True)
        path = folder / path.name
        status = path.lstat()
        if not stat.S_ISLNK(status.st_mode):
            return path
        if status.st_uid != 0 and os.geteuid() == 0:
            raise wrong(
                f"the link {path} belongs to user {status.st_uid}, and root relies on it",
                hint="put the file itself there",
            )
        path = folder / path.readlink()
    raise wrong(f"{path}: too many links", hint="put the file itself there")


def _resolved(path: Path, wrong: type[KmindError]) -> Path:
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: links in a circle, before Python 3.13
        raise wrong(
            f"{path} leads nowhere", hint="remove the link, or put its file there"
        ) from None


def _below(folder: Path, wrong: type[KmindError]) -> list[Path]:
    # Bounded, for what is named may be no module at all, but the root of a disk.
    places = list(islice(folder.rglob("*"), _MOST + 1))
    if len(places) > _MOST:
        raise wrong(f"{folder} holds more than {_MOST} files", hint="name the folder of one module")
    return sorted(places)


def _ask(path: Path, status: os.stat_result, wrong: type[KmindError], *, above: bool) -> None:
    if status.st_uid != 0:
        raise wrong(
            f"{path} belongs to user {status.st_uid}, and root relies on it",
            hint=f"chown -R root: {path}, once you have read it",
        )
    # In a sticky folder, as /tmp, others cannot replace what is root's.
    sticky = above and status.st_mode & stat.S_ISVTX
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
        others = "everybody" if status.st_mode & stat.S_IWOTH else f"group {status.st_gid}"
        raise wrong(
            f"{path} can be written to by {others} (mode {stat.S_IMODE(status.st_mode):04o}), "
            "and root relies on it",
            hint=f"chmod -R go-w {path}, once you have read it",
        )
