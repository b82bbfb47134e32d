# SPDX-License-Identifier: Apache-2.0
"""Reading the files of a module's folder as root, and nothing that they only point to.

A link, or a second name, could lead root to a file that is not the module's, and the extension
would be given what no user but root may read. So each part of a path below the folder is opened by
itself with O_NOFOLLOW (open(2)), from the descriptor of the folder above it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from kmind.errors import ModuleError

__all__ = ["MOST_SOURCES", "read_beneath", "read_sources", "refuse_unplain"]

MOST_SOURCES = 16 << 20
"""Bytes that the Python files of one module may have together."""

_MOST_FOLDERS = 1000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not to be held up by a FIFO that stands there.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def read_beneath(folder: Path, relative: str, most: int = MOST_SOURCES) -> bytes:
    """Read the file ``relative`` (``a/b.py``) of ``folder``, of at most ``most`` bytes.

    Links above ``folder`` are followed, none below. Raises FileNotFoundError where there is none,
    OSError if the system refuses, ModuleError for a link, an irregular file, and for a
    file with a second name elsewhere that others may not read.
    """
    *above, name = relative.split("/")
    with contextlib.ExitStack() as stack:
        fd = os.open(folder, _FOLDER & ~os.O_NOFOLLOW)
        stack.callback(os.close, fd)
        for part in above:
            fd = _open(part, _FOLDER, fd, folder / relative)
            stack.callback(os.close, fd)
        return _read(fd, name, folder / relative, most)


def refuse_unplain(path: Path) -> None:
    """Raise ModuleError for a file in a module's folder that is a link, or no plain file.

    Nothing is opened, for that alone may wait (a FIFO) or do something (a device). Raises OSError
    where there is none.
    """
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise _is_link(path)
    if not stat.S_ISREG(status.st_mode):
        raise ModuleError(f"{path} is not a regular file")


def read_sources(folder: Path) -> dict[str, bytes]:
    """All Python files below ``folder``: path relative to it, to content; in order of the paths.

    Raises as ``read_beneath`` does, and ModuleError where they are too many, or too large.
    """
    sources: dict[str, bytes] = {}
    room = MOST_SOURCES
    with contextlib.ExitStack() as stack:
        fd = os.open(folder, _FOLDER & ~os.O_NOFOLLOW)
        stack.callback(os.close, fd)
        for relative, above in _walk(fd, folder):
            sources[relative] = _read(above, relative.rpartition("/")[2], folder / relative, room)
            room -= len(sources[relative])
    return dict(sorted(sources.items()))


def _walk(top: int, folder: Path) -> Iterator[tuple[str, int]]:
    # Each Python file below, with the descriptor of the folder that it is in.
    waiting = [("", os.dup(top))]
    seen = 0
    try:
        while waiting:
            prefix, fd = waiting.pop()
            try:
                for entry in sorted(os.scandir(fd), key=lambda entry: entry.name):
                    path = f"{prefix}{entry.name}"
                    if entry.name.endswith(".py"):
                        yield path, fd
                    elif entry.is_dir(follow_symlinks=False) and entry.name != "__pycache__":
                        seen += 1
                        if seen > _MOST_FOLDERS:
                            raise ModuleError(f"{folder} holds more than {_MOST_FOLDERS} folders")
                        below = _open(entry.name, _FOLDER, fd, folder / path)
                        waiting.append((f"{path}/", below))
            finally:
                os.close(fd)
    finally:
        for _, fd in waiting:
            os.close(fd)


def _open(name: str, flags: int, above: int, shown: Path) -> int:
    if name in ("", ".", ".."):
        raise ModuleError(f"{shown} is no path below the module's folder")
    try:
        return os.open(name, flags, dir_fd=above)
    except OSError:
        # ELOOP of a file, ENOTDIR of a folder; what is there decides which words are right.
        with contextlib.suppress(OSError):
            if stat.S_ISLNK(os.lstat(name, dir_fd=above).st_mode):
                raise _is_link(shown) from None
        raise


def _is_link(path: Path) -> ModuleError:
    return ModuleError(
        f"{path} is a link, and root follows none in a module's folder",
        hint="put the file itself there",
    )


def _read(above: int, name: str, shown: Path, most: int) -> bytes:
    # Not even opened, for to open a device may do something: a watchdog begins to count.
    with contextlib.suppress(FileNotFoundError, ValueError):
        mode = os.lstat(name, dir_fd=above).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or name in ("", ".", "..")):
            raise ModuleError(f"{shown} is not a regular file")
    with os.fdopen(_open(name, _FILE, above, shown), "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ModuleError(f"{shown} is not a regular file")
        if status.st_nlink > 1 and not status.st_mode & stat.S_IROTH:
            raise ModuleError(
                f"{shown} has a second name elsewhere, and only some may read it there",
                hint="put a copy there",
            )
        data = bytearray()
        while chunk := file.read(most + 1 - len(data)):
            data += chunk
        if len(data) > most:
            raise ModuleError(f"{shown}: a module's files of this kind have at most {most} bytes")
        return bytes(data)
