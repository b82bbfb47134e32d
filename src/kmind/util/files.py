# SPDX-License-Identifier: Apache-2.0
"""Folders and files that nobody but their owner can change.

"Ours" below means: owned by the effective user of this process.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from kmind.errors import KmindError, PrivilegeError

__all__ = [
    "create_file",
    "make_folder",
    "make_private",
    "refuse_shared",
    "replace_file",
    "shared_by",
]


def make_folder(path: Path, mode: int) -> bool:
    """Make a folder with that mode, whatever the umask; whether it is new.

    Those above it that are missing are made with mode 0755. One that is there is left as it
    is. Raises OSError as ``mkdir`` does.
    """
    if path.is_dir():
        return False
    if path.parent != path:
        make_folder(path.parent, 0o755)
    try:
        path.mkdir(mode=mode)
    except FileExistsError:
        if not path.is_dir():
            raise
        return False
    path.chmod(mode)
    return True


def make_private(path: Path, *, what: str, hint: str = "") -> None:
    """Make a folder of mode 0700, if it is not there; KmindError if it is not ours alone.

    It is looked at by a descriptor, and no link of that name is followed. Who can change the
    folders above is asked as ``refuse_shared`` does: once it is ours nobody else can move it, and
    its path can be used.
    """
    above = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(FileExistsError):
            os.mkdir(path.name, 0o700, dir_fd=above)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path.name, flags, dir_fd=above)
        status = os.fstat(fd)
        os.close(fd)
    except OSError as error:
        why = error.strerror if error.errno != errno.ENOTDIR else "it is a link, or not a directory"
        raise KmindError(f"cannot use {what} {path}: {why}", hint=hint) from None
    finally:
        os.close(above)
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid() or mode != 0o700:
        raise KmindError(
            f"cannot use {what} {path}: it belongs to user {status.st_uid}, mode {mode:04o}, and "
            f"must be of user {os.geteuid()}, mode 0700",
            hint=hint,
        )
    refuse_shared(path, what=what, hint=hint)


def refuse_shared(path: Path, *, what: str, hint: str = "") -> Path:
    """The folder with all links resolved; KmindError if another user can change it.

    It must be ours, and not writable by group or others. So must each folder above it be
    (or root's), but that others may write into a sticky one, such as /tmp: there they can't
    replace what is ours. A user who is not root risks only what is theirs, and is not asked
    this. ``what`` is how errors call it.
    """
    try:
        real = path.resolve(strict=True)
        status = os.lstat(real)
    except OSError as error:
        kind = PrivilegeError if isinstance(error, PermissionError) else KmindError
        raise kind(f"cannot use {what} {path}: {error.strerror}", hint=hint) from None
    except RuntimeError:  # links in a circle, before Python 3.13
        raise KmindError(f"cannot use {what} {path}: too many links", hint=hint) from None
    if not stat.S_ISDIR(status.st_mode):
        raise KmindError(f"cannot use {what} {path}: not a directory", hint=hint)
    if os.geteuid() != 0:
        return real
    if reason := shared_by(status):
        raise KmindError(f"cannot use {what} {path}: it {reason}", hint=hint)
    for above in real.parents:
        status = os.lstat(above)
        if not status.st_mode & stat.S_ISVTX and (reason := shared_by(status, root_too=True)):
            raise KmindError(f"cannot use {what} {path}: {above} {reason}", hint=hint)
    return real


def shared_by(status: os.stat_result, *, root_too: bool = False) -> str:
    """Return the reason why another user can change the file of ``status``, or "".

    With ``root_too`` root may own it.
    """
    if status.st_uid != os.geteuid() and not (root_too and status.st_uid == 0):
        return f"belongs to user {status.st_uid}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        others = "everybody" if status.st_mode & stat.S_IWOTH else f"group {status.st_gid}"
        return f"can be written to by {others} (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""


def create_file(path: Path, mode: int = 0o600) -> int:
    """A descriptor of a new, empty file, open for writing; what had the name is unlinked first.

    Never opens what somebody put there, nor what a link of that name leads to (``O_EXCL``,
    ``O_NOFOLLOW``, by the folder's own descriptor). Raises OSError.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    folder = os.open(path.parent, flags)
    try:
        with suppress(FileNotFoundError):
            os.unlink(path.name, dir_fd=folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path.name, flags, mode, dir_fd=folder)
    finally:
        os.close(folder)


def replace_file(path: Path, data: bytes, *, durable: bool) -> None:
    """Have a file hold ``data``, and be private: whoever opens it finds the old content or this.

    Its folder is made, for its owner alone. ``durable``: data is on disk before the name is
    changed. A process that is killed meanwhile may leave the file with the suffix ``.new`` behind.
    One process, one thread at a time may replace a file. Raises OSError, and ValueError for a path
    that cannot be one; what was there stays then.
    """
    partial = path.with_suffix(".new")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with os.fdopen(create_file(partial), "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError, ValueError):
            partial.unlink(missing_ok=True)
        raise
