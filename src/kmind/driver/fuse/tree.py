# SPDX-License-Identifier: Apache-2.0
"""A file system with one file: all its requests but those for the file's data."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable

import numpy as np

from kmind.driver.fuse.protocol import (
    ATTR_OUT,
    ENTRY_OUT,
    OPEN_OUT,
    STATFS_OUT,
    Opcode,
)

__all__ = ["FILE", "FILE_NODE", "Refused", "Tree"]

FILE = "disk"
"""The name of the one file."""

FILE_NODE = 2
"""The file's node; the root folder's is 1."""

_ROOT_NODE = 1
_BLOCK = 4096
_FOREVER = (1 << 32) - 1  # seconds that the kernel may remember names and attributes
_FILE_ENTRY = FILE.encode().ljust(8, b"\0")


class Refused(Exception):  # noqa: N818 - an answer to the caller, no fault
    """A request is answered with an error number."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.errno = number


class Tree:
    """The root folder, and one regular file of ``size`` bytes that only root can open.

    Sizes, names and modes never change: the kernel may keep them, and requests to change them
    are refused with EPERM.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._answers: dict[int, Callable[[int, bytes], bytes]] = {
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: self._getattr,
            Opcode.SETATTR: _never,
            Opcode.OPEN: self._open,
            Opcode.OPENDIR: self._open,
            Opcode.READDIR: self._readdir,
            Opcode.STATFS: self._statfs,
            Opcode.RELEASE: _done,
            Opcode.RELEASEDIR: _done,
            Opcode.ACCESS: _done,
            Opcode.DESTROY: _done,
        }

    def answer(self, opcode: int, node: int, body: bytes) -> bytes:
        """The answer to a request, without its header.

        Raises Refused: with ENOSYS for what is unknown, and INTERRUPT too, after which the
        kernel does not send it again.
        """
        answer = self._answers.get(opcode)
        if answer is None:
            raise Refused(errno.ENOSYS)
        if node not in (_ROOT_NODE, FILE_NODE) and opcode != Opcode.DESTROY:
            raise Refused(errno.ESTALE)
        return answer(node, body)

    def _lookup(self, node: int, body: bytes) -> bytes:
        if node != _ROOT_NODE:
            raise Refused(errno.ENOTDIR)
        if body.partition(b"\0")[0] != FILE.encode():
            raise Refused(errno.ENOENT)
        entry = np.zeros((), ENTRY_OUT)
        entry["nodeid"] = FILE_NODE
        entry["entry_valid"] = entry["attr_valid"] = _FOREVER
        entry["attr"] = self._attributes(FILE_NODE)["attr"]
        return entry.tobytes()

    def _getattr(self, node: int, _: bytes) -> bytes:
        return self._attributes(node).tobytes()

    def _attributes(self, node: int) -> np.ndarray[tuple[()], np.dtype[np.void]]:
        found = np.zeros((), ATTR_OUT)
        found["valid"] = _FOREVER
        attr = found["attr"]
        attr["ino"] = node
        attr["blksize"] = _BLOCK
        if node == _ROOT_NODE:
            attr["mode"], attr["nlink"] = stat.S_IFDIR | 0o500, 2
        else:
            attr["mode"], attr["nlink"] = stat.S_IFREG | 0o600, 1
            attr["size"], attr["blocks"] = self.size, self.size // 512
        return found

    def _open(self, node: int, _: bytes) -> bytes:
        # Not FOPEN_DIRECT_IO, with which a loop device hung (libfuse #56): it opens by O_DIRECT.
        opened = np.zeros((), OPEN_OUT)
        opened["fh"] = node
        return opened.tobytes()

    def _readdir(self, node: int, body: bytes) -> bytes:
        if node != _ROOT_NODE:
            raise Refused(errno.ENOTDIR)
        if len(body) < 16 or int.from_bytes(body[8:16], "little"):
            return b""
        entry = np.array([FILE_NODE, 1], "<u8").tobytes()
        return entry + np.array([len(FILE), stat.S_IFREG >> 12], "<u4").tobytes() + _FILE_ENTRY

    def _statfs(self, _: int, __: bytes) -> bytes:
        found = np.zeros((), STATFS_OUT)
        found["blocks"] = self.size // _BLOCK
        found["files"] = (1, 0)
        found["bsize"] = found["frsize"] = _BLOCK
        found["namelen"] = 255
        return found.tobytes()


def _done(_: int, __: bytes) -> bytes:
    return b""


def _never(_: int, __: bytes) -> bytes:
    raise Refused(errno.EPERM)
