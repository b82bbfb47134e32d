# SPDX-License-Identifier: Apache-2.0
"""SQLite files that no other user can open.

Whoever can open one of the files, be it for reading, can lock it (fcntl(2)), and stop every
writer: so the database, its log (-wal) and its index (-shm) are for their owner alone. What
was open to others once may be open still in one of their processes: it is replaced by a copy
that has never been.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kmind.errors import KmindError
from kmind.util.files import create_file, make_folder, refuse_shared

__all__ = ["connect_private", "connect_reader"]

_MODE = 0o600
_FOLDER_MODE = 0o700
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_PARTS = ("", "-wal", "-shm")
_RENEW_S = 10.0
_CHUNK = 1 << 20


def connect_private(path: Path, *, patience_s: float) -> sqlite3.Connection:
    """Open a database for reading and writing, made if it is not there, in autocommit mode.

    Folder and files are made for their owner alone. Files that are open to others are taken
    from them; so is the folder, if it is called kmind, and otherwise the right to write to it.
    Raises KmindError where another user could still change them, OSError, and sqlite3.Error.
    """
    make_folder(path.parent, _FOLDER_MODE)
    _take_folder(path.parent)
    path = _refuse_folder(path.parent) / path.name
    with suppress(FileExistsError):
        # No descriptor: closing one would drop the locks that this process holds on the file.
        os.mknod(path, _MODE | stat.S_IFREG)
    _take_files(path)
    return _connect(f"{path.as_uri()}?mode=rw", patience_s)


def connect_reader(path: Path, *, patience_s: float, ours: bool = False) -> sqlite3.Connection:
    """Open a database for reading only; nothing is made, changed or repaired.

    Works where nothing can be written, too: for want of room, of the right to, or in a file
    system that is read-only. With ``ours`` only if no other user can have changed what it says,
    else KmindError; then what a killed process left in the log is read on a full disk as well.
    Raises OSError where the file, or what its log holds, may not be read, and sqlite3.Error.
    """
    if ours:
        path = _refuse_folder(path.parent) / path.name
        _refuse_files(path)
    path.stat()
    if not os.access(path, os.R_OK):  # SQLite does not say why it can't open a file
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    uri = path.resolve().as_uri()
    db = _connect(f"{uri}?mode=ro", patience_s)
    try:
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
        return db
    except sqlite3.OperationalError:
        # Its index cannot be made there. Without a log nobody has the database open, and the
        # file is the whole of it.
        db.close()
        log = path.with_name(f"{path.name}-wal")
        if not log.exists() or not log.stat().st_size:
            return _connect(f"{uri}?mode=ro&immutable=1", patience_s)
        if not os.access(path.parent, os.W_OK) and not os.statvfs(path).f_flag & os.ST_RDONLY:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from None
        if not ours:
            raise
    # With the file to itself SQLite keeps the index in memory (https://sqlite.org/wal.html#noshm).
    db = _connect(f"{uri}?mode=rw", patience_s)
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("PRAGMA query_only = 1")
    return db


def _connect(uri: str, patience_s: float) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, timeout=patience_s, isolation_level=None)


def _take_folder(folder: Path) -> None:
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & stat.S_ISVTX:
        return  # not ours, or everybody's by purpose, as /tmp is
    others = _OTHERS if folder.name == "kmind" else stat.S_IWGRP | stat.S_IWOTH
    if status.st_mode & others:
        folder.chmod(stat.S_IMODE(status.st_mode) & ~others)


def _refuse_folder(folder: Path) -> Path:
    return refuse_shared(folder, what="the folder", hint="name a private one with KMIND_STATE_DIR")


def _refuse_files(path: Path) -> None:
    for file, status in _parts(path):
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise KmindError(
                f"{file} can be written to by others (mode {stat.S_IMODE(status.st_mode):04o})",
                hint="find out who wrote to it before you use it",
            )


def _take_files(path: Path) -> None:
    marker = path.with_name(f"{path.name}-exposed")
    for file, status in _parts(path):
        if status.st_mode & _OTHERS:
            # The mark first: killed in between, the copy is made the next time.
            marker.touch(_MODE)
            file.chmod(_MODE)
    if marker.exists():
        _renew(path, marker)


def _parts(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    # The files that are there; KmindError for one that somebody else could have put there.
    for part in _PARTS:
        file = path.with_name(path.name + part)
        try:
            status = os.lstat(file)
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(status.st_mode):
            raise KmindError(f"{file} is not a regular file", hint="move it away")
        if status.st_uid != os.geteuid():
            raise KmindError(
                f"{file} belongs to user {status.st_uid}", hint="move it away, or give it to root"
            )
        yield file, status


def _renew(path: Path, marker: Path) -> None:
    # New inodes with the same content: whoever opened the old ones may lock those for ever.
    with marker.open("rb") as lock:
        until = time.monotonic() + _RENEW_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    return
                time.sleep(0.01)
        files = [path.with_name(path.name + part) for part in _PARTS]
        if not marker.exists() or _in_use(files):
            return  # done by another, or one of ours has it open: at the next start then
        copies = [(_copied(file), file) for file in files[:2] if file.exists()]
        for copy, file in copies:  # the same bytes: in whatever pair they are found, they fit
            copy.rename(file)
        files[2].unlink(missing_ok=True)  # SQLite makes it anew
        marker.unlink()


def _copied(file: Path) -> Path:
    copy = file.with_name(f"{file.name}.new")
    with file.open("rb") as old, os.fdopen(create_file(copy, _MODE), "wb") as new:
        while piece := old.read(_CHUNK):
            new.write(piece)
        new.flush()
        os.fsync(new.fileno())
    return copy


def _in_use(files: list[Path]) -> bool:
    # True if a process of this user, this one included, has one of them open.
    names = {file.name for file in files}
    known = set()
    for file in files:
        with suppress(OSError):
            status = os.lstat(file)
            known.add((status.st_dev, status.st_ino))
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if process.stat().st_uid != os.geteuid():
                continue
            for fd in (process / "fd").iterdir():
                with suppress(OSError):
                    if fd.readlink().name not in names:
                        continue  # a look at it might wait, on a network's file system
                    status = fd.stat()
                    if (status.st_dev, status.st_ino) in known:
                        return True
    return False
