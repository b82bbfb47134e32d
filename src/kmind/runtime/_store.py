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

__all__ = ["Store"]

_BUSY_SECONDS = 2.0


class Store:
    """One file, made with its folder if it is not there; in memory without ``path``.

    ``what`` is in it, as errors call it; ``version`` is that of ``schema``. It belongs to one
    thread. All methods raise KmindError where the file cannot be used.
    """

    def __init__(self, path: Path | None, *, what: str, schema: str, version: int) -> None:
        self._path = path
        self._what = what
        with self._errors("open"):
            if path is not None:
                path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                path or ":memory:", timeout=_BUSY_SECONDS, isolation_level=None
            )
            try:
                self._prepare(schema, version)
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, schema: str, version: int) -> None:
        self._db.row_factory = sqlite3.Row
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
        except (sqlite3.Error, OSError, ValueError) as error:
            raise KmindError(
                f"cannot {verb} the {self._what} in {self._path}: {error}",
                hint="free space on its disk, or move the file away to start a new one",
            ) from None
