# SPDX-License-Identifier: Apache-2.0
"""The right to a device's name: a locked file, which owner and server both hold.

The kernel takes the lock away with the last descriptor (flock(2)), so a dead owner's server keeps
it, and two dead processes leave nothing that somebody would have to clean up first.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from kmind.errors import KmindError
from kmind.util.names import file_name

__all__ = ["DeviceLease"]


class DeviceLease:
    """The lock of one name. Raises KmindError if somebody else has it."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / file_name(name)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.descriptor = self._lock()
        except BlockingIOError:
            raise KmindError(
                f"the device of {name} is served already, by another owner",
                hint="end that one: kmind unload, or the kmind run that serves it",
            ) from None
        except OSError as error:
            raise KmindError(f"cannot lock {self._path}: {error.strerror}") from None

    @classmethod
    def adopt(cls, folder: Path, name: str, descriptor: int) -> DeviceLease:
        """Hold the lock by a descriptor of a process that has it."""
        lease = cls.__new__(cls)
        lease._path, lease.descriptor = folder / file_name(name), descriptor
        return lease

    def _lock(self) -> int:
        while True:
            descriptor = os.open(
                self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with suppress(FileNotFoundError):  # else an earlier holder took it away
                    if os.path.samestat(os.fstat(descriptor), self._path.stat()):
                        return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def release(self) -> None:
        """Give the name up; the server has ended. Safe to repeat."""
        if self.descriptor >= 0:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
            self.let_go()

    def let_go(self) -> None:
        """Leave the name to the server. Safe to repeat."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
