# SPDX-License-Identifier: Apache-2.0
"""Places for large files that may be deleted at any time: those that loads read.

They are written by root, so no other user may be able to put links into their folder. They
are not below /tmp or /var/tmp: anybody could make a folder of a known name there first.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from kmind.errors import KmindError
from kmind.util.files import create_file, make_folder, refuse_shared, shared_by

__all__ = ["create_scratch", "finished_scratch", "scratch_folder"]

# Others may pass through, for a server that runs as another user, but neither list nor write.
_MODE = 0o711


def scratch_folder(path: Path) -> Path:
    """The folder, made if it is not there, and where its links lead.

    Raises KmindError if another user can change it, or could put something into it.
    """
    try:
        make_folder(path, _MODE)
    except OSError as error:
        raise KmindError(
            f"cannot make {path}: {error.strerror}", hint="name another folder"
        ) from None
    return refuse_shared(
        path, what="the scratch folder", hint="delete it, or name a folder that nobody else can use"
    )


def create_scratch(path: Path) -> int:
    """A descriptor of a new file in a scratch folder; one of that name is deleted first."""
    try:
        scratch_folder(path.parent)
        return create_file(path)
    except OSError as error:
        raise KmindError(f"cannot make {path}: {error.strerror}") from None


def finished_scratch(path: Path, size: int) -> bool:
    """True if ``path`` is a regular file of ours with ``size`` bytes, and not a link."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and not shared_by(status) and status.st_size == size
