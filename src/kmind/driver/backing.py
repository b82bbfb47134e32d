# SPDX-License-Identifier: Apache-2.0
"""Files and disks that a driver's requests are forwarded to."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Self

from kmind.errors import KmindError

__all__ = ["Backing"]


class Backing:
    """A regular file or a block device, by a descriptor that somebody else opened and closes.

    ``size`` is its size in bytes at this time.
    """

    def __init__(self, descriptor: int) -> None:
        kind = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
            raise KmindError(
                f"descriptor {descriptor} is no file and no disk", hint="open one of the two"
            )
        self.descriptor = descriptor
        self.size = os.lseek(descriptor, 0, os.SEEK_END)  # of a block device, too

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open one for reading and writing, past the page cache where its file system can.

        ``close`` it, or use it in a ``with``.
        """
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            try:
                descriptor = os.open(path, flags | os.O_DIRECT)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                descriptor = os.open(path, flags)
        except OSError as error:
            raise KmindError(f"cannot open the backing {path}: {error.strerror}") from None
        try:
            return cls(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def use_page_cache(self) -> None:
        """Have all I/O by this descriptor go through the page cache: from unaligned memory, say."""
        flags = fcntl.fcntl(self.descriptor, fcntl.F_GETFL)
        if flags & os.O_DIRECT:
            fcntl.fcntl(self.descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)

    def close(self) -> None:
        """Close the descriptor; safe to repeat."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
