# SPDX-License-Identifier: Apache-2.0
"""SQLite files that can change: one opener, and one way from each version to the present one.

A store's ``Schema`` is a list of steps, the first of which makes version 1. A file of an earlier
version is brought to the present one when it is opened, one transaction a step: what SQLite
promises of a transaction holds for the step and for the number of the version beside it, which
lies in the same file (``PRAGMA user_version``). So a kill or a full disk leaves the one version or
the other, whole. No copy of the old file is kept: it would add nothing to that, would have to be
made through SQLite while others use the file, and would need as much room again where there may be
none.

A file of a later version is not written to, for nobody knows what its columns mean. It can be read.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kmind.errors import KmindError, PrivilegeError
from kmind.util.private_database import connect_private, connect_reader

__all__ = [
    "OWNER_PATIENCE_S",
    "DeferringStore",
    "Schema",
    "Step",
    "Store",
    "is_busy",
    "is_database_there",
    "not_for_this_user",
    "sqlite_hint",
]

OWNER_PATIENCE_S = 0.02
"""For how long the owner's thread waits for another process's transaction, in seconds."""

_PATIENCE_S = 2.0
_MOST_LATE = 1000

Step = str | Callable[[sqlite3.Connection], None]
"""From one version to the next: SQL statements, or a function that executes some.

It runs in a transaction, and must leave that open.
"""


@dataclass(frozen=True)
class Schema:
    """The tables of one kind of store, in all versions that there were.

    ``what`` is how errors call the store. ``steps[n]`` leads from version n to n + 1; version 0 is
    an empty file. With ``durable`` a commit survives a power cut, else only a kill. ``way_out``
    is what to do with a file of a later version.
    """

    what: str
    steps: tuple[Step, ...]
    durable: bool = False
    way_out: str = "use the kmind that wrote it, or move the file away"

    @property
    def version(self) -> int:
        """The present one."""
        return len(self.steps)


class Store:
    """One file, made with its folder if it is not there; in memory without ``path``.

    No other user can open it. It belongs to one thread, and must not be carried over a fork. One
    of an earlier version is brought to the present one; one of a later version is refused.

    With ``read_only`` nothing is made or changed: one of an earlier version is upgraded in memory,
    and one of a later version is read as it is, so that columns are to be asked for by name. With
    ``ours`` that is refused where another user can have changed what the file says.

    ``patience_s`` is how long it is waited for other processes until ``hurry``. Errors are
    KmindError where the file cannot be used, PrivilegeError where it is not for this user.
    ``is_later``: it is of a later version. A subclass names its ``schema``.
    """

    is_later = False
    _refusal: type[KmindError] = KmindError  # of one of a later version

    schema: Schema

    def __init__(
        self,
        path: Path | None,
        *,
        read_only: bool = False,
        ours: bool = False,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._path = path
        self._patience_s = patience_s
        with self._errors("open"):
            if path is None:
                self._db = sqlite3.connect(":memory:", isolation_level=None)
            elif read_only:
                self._db = connect_reader(path, patience_s=patience_s, ours=ours)
            else:
                self._db = connect_private(path, patience_s=patience_s)
            try:
                self._prepare(read_only)
                self._db.row_factory = sqlite3.Row
            except BaseException:
                self._db.close()
                raise

    def hurry(self, on: bool = True) -> None:
        """Wait for other processes no longer than an owner of agents may: milliseconds."""
        with self._errors("use"):
            self._wait_for(OWNER_PATIENCE_S if on else self._patience_s)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait_for(self, seconds: float) -> None:
        self._db.execute(f"PRAGMA busy_timeout = {round(seconds * 1000):d}")

    def _prepare(self, read_only: bool) -> None:
        version = _version(self._db)
        if read_only:
            if version == 0:
                raise ValueError("it is empty")
            self.is_later = version > self.schema.version
            if version < self.schema.version:
                self._db = _upgraded_copy(self._db, self.schema)
            return
        if version <= self.schema.version:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA synchronous = {'FULL' if self.schema.durable else 'NORMAL'}")
            version = _migrate(self._db, self.schema)
        if version > self.schema.version:
            raise self._refusal(
                f"the {self.schema.what} in {self._path} has version {version}, and this kmind "
                f"knows {self.schema.version}",
                hint=self.schema.way_out,
            )

    @contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise not_for_this_user(self.schema.what, self._path, error) from None
        except (sqlite3.Error, OSError, ValueError, TypeError, RecursionError) as error:
            raise self._error(verb, error) from None

    def _error(self, verb: str, error: Exception) -> KmindError:
        return KmindError(
            f"cannot {verb} the {self.schema.what} in {self._path}: {error}",
            hint=sqlite_hint(error),
        )


class DeferringStore(Store):
    """A store for what only tells and restores nothing.

    Once it is open, none of its methods waits for another process for more than some
    milliseconds: what cannot be written then is written at a later call.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        self._late: list[tuple[str, tuple[object, ...]]] = []
        super().__init__(path, read_only=read_only)
        self.hurry()

    def close(self) -> None:
        """Close the file."""
        try:
            if self._late:
                self.hurry(False)
                self._write_late()
        except (KmindError, sqlite3.Error):
            pass  # it only tells
        finally:
            super().close()

    def _soon(self, statement: str, *values: object) -> None:
        # Where another process writes just now, at the next call.
        self._late.append((statement, values))
        self._write_late()

    def _write_late(self) -> None:
        with self._errors("write"):
            while self._late:
                try:
                    self._db.execute(*self._late[0])
                except sqlite3.Error as error:
                    if is_busy(error) and len(self._late) < _MOST_LATE:
                        return
                    del self._late[0]
                    raise
                del self._late[0]


def is_database_there(path: Path, *, what: str) -> bool:
    """True if the file exists. Raises PrivilegeError if this user may not look, or not read it."""
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
        "why, kmind advice, kmind findings)",
    )


def is_busy(error: Exception) -> bool:
    """True if the error says that another process has locked the database."""
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


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _migrate(db: sqlite3.Connection, schema: Schema) -> int:
    # The version that it has afterwards: a later one, if another process came before us.
    while (version := _version(db)) < schema.version:
        db.execute("BEGIN EXCLUSIVE")  # readers go on with what they see (WAL)
        try:
            if _version(db) == version:  # another process may have taken the step meanwhile
                _take(db, schema.steps[version])
                db.execute(f"PRAGMA user_version = {version + 1}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # SQLite itself has rolled back where the disk is full
                db.execute("ROLLBACK")
            raise
    return version


def _take(db: sqlite3.Connection, step: Step) -> None:
    if callable(step):
        step(db)
        return
    statement = ""
    for piece in step.split(";")[:-1]:
        statement += f"{piece};"
        if sqlite3.complete_statement(statement):  # and not a text or a comment with a semicolon
            db.execute(statement)
            statement = ""
    assert not statement.strip(), "a step ends with a semicolon"


def _upgraded_copy(db: sqlite3.Connection, schema: Schema) -> sqlite3.Connection:
    # For who may not write, or can't. What cannot be upgraded is read as it is.
    copy = sqlite3.connect(":memory:", isolation_level=None)
    try:
        db.backup(copy)
        _migrate(copy, schema)
    except sqlite3.Error:
        copy.close()
        return db
    db.close()
    copy.execute("PRAGMA query_only = 1")  # else a write would be lost in silence
    return copy
