# SPDX-License-Identifier: Apache-2.0
"""One daemon at a time: a lock file with its process id in it.

The kernel drops the lock when the process ends, however it ends; the file may stay.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from kmind.errors import KmindError, PrivilegeError
from kmind.util.files import make_folder

__all__ = ["DaemonLock", "running_daemon"]

_NAME = "daemon.lock"


class DaemonLock:
    """The lock in ``folder``. ``inherited`` is its descriptor, from before a hot restart."""

    def __init__(self, folder: Path, *, inherited: int | None = None) -> None:
        self.fd = _open(folder) if inherited is None else inherited
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = _pid(self.fd)
            os.close(self.fd)
            raise KmindError(
                f"a daemon runs already: pid {pid or 'unknown'}",
                hint="kmind daemon --replace restarts it, and leaves its instances running",
            ) from None
        os.truncate(self.fd, 0)
        os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another daemon start."""
        os.close(self.fd)


def running_daemon(folder: Path) -> int | None:
    """The process id of the daemon that holds the lock; None if there is none."""
    try:
        fd = os.open(folder / _NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid(fd)
    finally:
        os.close(fd)
    return None


def _open(folder: Path) -> int:
    try:
        make_folder(folder, 0o755)
        # A process that can open it can hold it: it is root's alone.
        return os.open(folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as error:
        raise PrivilegeError(f"cannot use {folder}: {error.strerror}", hint="run as root") from None
    except OSError as error:
        raise KmindError(f"cannot use {folder}: {error.strerror}", hint="see its parents") from None


def _pid(fd: int) -> int | None:
    text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdigit() else None
