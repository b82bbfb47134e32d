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
from contextlib import suppress
from pathlib import Path

from kmind.errors import KmindError, PrivilegeError
from kmind.util.files import create_file, make_folder, refuse_shared

__all__ = [
    "OWNER_PATIENCE_S",
    "connect_private",
    "connect_reader",
    "is_busy",
    "is_database_there",
    "not_for_this_user",
    "set_patience",
    "sqlite_hint",
]

OWNER_PATIENCE_S = 0.02
"""For how long the owner's thread waits for another process's transaction, in seconds."""

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
    folder = refuse_shared(
        path.parent, what="the folder", hint="name one of its own with KMIND_STATE_DIR"
    )
    path = folder / path.name
    with suppress(FileExistsError):
        # No descriptor: closing one would drop the locks that this process holds on the file.
        os.mknod(path, _MODE | stat.S_IFREG)
    _take_files(path)
    return _connect(f"{path.as_uri()}?mode=rw", patience_s)


def connect_reader(path: Path, *, patience_s: float) -> sqlite3.Connection:
    """Open a database for reading only; nothing is made, changed or repaired.

    Works where nothing can be written, too: for want of room, of the right to, or in a file
    system that is read-only. Raises OSError where the file, or what its log holds, may not be
    read, and sqlite3.Error.
    """
    path.stat()
    if not os.access(path, os.R_OK):  # SQLite does not say why it can't open a file
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    uri = path.resolve().as_uri()
    db = _connect(f"{uri}?mode=ro", patience_s)
    try:
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        # Its index cannot be made there. Without a log nobody has the database open, and the
        # file is the whole of it.
        db.close()
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            if not os.access(path.parent, os.W_OK) and not os.statvfs(path).f_flag & os.ST_RDONLY:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from None
            raise
        db = _connect(f"{uri}?mode=ro&immutable=1", patience_s)
    return db


def is_database_there(path: Path, *, what: str) -> bool:
    """Whether there is a file. PrivilegeError where this user may not know, or not read it."""
    try:
        path.stat()
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return True
    except PermissionError as error:
        raise not_for_this_user(what, path, error) from None
    except OSError:
        return False


def not_for_this_user(what: str, path: Path | None, error: OSError) -> PrivilegeError:
    """The error for a user whom the system keeps from a database; ``what`` is in it."""
    return PrivilegeError(
        f"the {what} in {path} is for its owner only ({error.strerror})",
        hint="run as root; members of the group kmind may ask the daemon (kmind status, kmind "
        "why, kmind advice list)",
    )


def set_patience(db: sqlite3.Connection, seconds: float) -> None:
    """Wait for so long when another process has locked the database."""
    db.execute(f"PRAGMA busy_timeout = {round(seconds * 1000):d}")


def is_busy(error: Exception) -> bool:
    """Whether the error is that another process has locked the database."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def sqlite_hint(error: Exception) -> str:
    """The next step after an error of ``sqlite3`` or of the system; "" if there is none to say."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT) or isinstance(
        error, ValueError | TypeError | RecursionError
    ):
        return "it is left as it is; move it away to start a new one"
    if is_busy(error):
        return "another process is writing to it; try again"
    if code == sqlite3.SQLITE_FULL:
        return "free space on its disk"
    read_only = isinstance(error, OSError) and error.errno == errno.EROFS
    if code == sqlite3.SQLITE_READONLY or read_only:
        return "its file system is read-only: set KMIND_STATE_DIR to another place"
    if isinstance(error, PermissionError):
        return "run as root"
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) or isinstance(error, OSError):
        return "see whether its disk is full; or set KMIND_STATE_DIR to another place"
    return ""


def _connect(uri: str, patience_s: float) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, timeout=patience_s, isolation_level=None)


def _take_folder(folder: Path) -> None:
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & stat.S_ISVTX:
        return  # not ours, or everybody's by purpose, as /tmp is
    others = _OTHERS if folder.name == "kmind" else stat.S_IWGRP | stat.S_IWOTH
    if status.st_mode & others:
        folder.chmod(stat.S_IMODE(status.st_mode) & ~others)


def _take_files(path: Path) -> None:
    marker = path.with_name(f"{path.name}-exposed")
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
        if status.st_mode & _OTHERS:
            # The mark first: killed in between, the copy is made the next time.
            marker.touch(_MODE)
            file.chmod(_MODE)
    if marker.exists():
        _renew(path, marker)


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
    # Whether a process of this user, this one included, has one of them open.
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
