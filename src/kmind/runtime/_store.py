# SPDX-License-Identifier: Apache-2.0
"""A SQLite file beside the journal, for what only tells and restores nothing.

A commit survives a kill, but not a power cut: what counts is in the journal.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from kmind.errors import KmindError
from kmind.util.sqlite import (
    OWNER_PATIENCE_S,
    connect_private,
    connect_reader,
    is_busy,
    not_for_this_user,
    set_patience,
    sqlite_hint,
)

__all__ = ["Store"]

_PATIENCE_S = 2.0
_MOST_LATE = 1000


class Store:
    """One file, made with its folder if it is not there; in memory without ``path``.

    ``what`` is in it, as errors call it; ``version`` is that of ``schema``. No other user can
    open it. With ``read_only`` nothing is made or changed. It belongs to one thread. All
    methods raise KmindError where the file cannot be used. None waits for another process for
    more than some milliseconds: what cannot be written then is written at a later call.
    """

    def __init__(
        self, path: Path | None, *, what: str, schema: str, version: int, read_only: bool = False
    ) -> None:
        self._path = path
        self._what = what
        self._late: list[tuple[str, tuple[object, ...]]] = []
        with self._errors("open"):
            if path is None:
                self._db = sqlite3.connect(":memory:", isolation_level=None)
            else:
                connect = connect_reader if read_only else connect_private
                self._db = connect(path, patience_s=_PATIENCE_S)
            try:
                self._prepare(schema, version, read_only)
                if path is not None:
                    set_patience(self._db, OWNER_PATIENCE_S)
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Close the file."""
        try:
            if self._late:
                set_patience(self._db, _PATIENCE_S)
                self._write_late()
        except (KmindError, sqlite3.Error):
            pass  # it only tells
        finally:
            self._db.close()

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, schema: str, version: int, read_only: bool) -> None:
        self._db.row_factory = sqlite3.Row
        if not read_only:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
        found = self._version()
        if found not in (0, version):
            raise KmindError(
                f"the {self._what} in {self._path} has version {found}; this kmind knows {version}",
                hint="use the kmind that wrote it, or move the file away",
            )
        if found:
            return
        if read_only:
            raise ValueError("it is empty")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            if not self._version():  # another process may have made it meanwhile
                for statement in schema.split(";")[:-1]:
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {version}")
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    @contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise not_for_this_user(self._what, self._path, error) from None
        except (sqlite3.Error, OSError, ValueError, TypeError, RecursionError) as error:
            raise KmindError(
                f"cannot {verb} the {self._what} in {self._path}: {error}", hint=sqlite_hint(error)
            ) from None
