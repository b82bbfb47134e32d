# SPDX-License-Identifier: Apache-2.0
"""Programs that store something, some with a mistake that a power cut brings out.

Each has ``prepare`` for a new file system, ``run``, which calls ``done(n)`` once it holds the n-th
step to be safe, and ``check``, which returns a complaint where that was not so.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["LOADS", "PLANTED", "SOUND", "Load"]

_STEPS = 40
_FILE = 8192
_PAGE = 16384
_PAGES = 4
_WORD = 8


class Load(Protocol):
    """A program and its check."""

    def prepare(self, folder: Path) -> None:
        """Make what ``run`` goes on from."""

    def run(self, folder: Path, done: Callable[[int], None]) -> None:
        """Store, until all is done or the disk fails."""

    def check(self, folder: Path, done: int) -> str:
        """Look at what is there after a cut, when ``done`` steps were safe; "" if all is well."""


@dataclass(frozen=True)
class NewFiles:
    """Writes each file under another name first, as editors and package managers do."""

    sync_data: bool = True
    sync_folder: bool = True

    def prepare(self, folder: Path) -> None:
        """Nothing."""

    def run(self, folder: Path, done: Callable[[int], None]) -> None:
        """Write, sync, rename, sync."""
        directory = os.open(folder, os.O_RDONLY)
        try:
            for step in range(_STEPS):
                with (folder / "new").open("wb") as file:
                    file.write(_content(step))
                    file.flush()
                    if self.sync_data:
                        os.fsync(file.fileno())
                (folder / "new").rename(folder / str(step))
                if self.sync_folder:
                    os.fsync(directory)
                done(step)
        finally:
            os.close(directory)

    def check(self, folder: Path, done: int) -> str:
        """Each file is there, and whole."""
        for step in range(done):
            try:
                content = (folder / str(step)).read_bytes()
            except FileNotFoundError:
                return f"file {step} of {done} is not there"
            if content != _content(step):
                return f"file {step} of {done} has {len(content)} bytes, not what was written"
        return ""


@dataclass(frozen=True)
class Pages:
    """A table of pages, each with two copies that are overwritten by turns, as databases do.

    A page begins with its version and ends with a checksum; the newest whole copy counts, or, with
    ``checked`` unset, the newest.
    """

    checked: bool = True

    def prepare(self, folder: Path) -> None:
        """All pages, version 0."""
        with (folder / "table").open("wb") as file:
            file.write(_page(0) * (2 * _PAGES))
            os.fsync(file.fileno())

    def run(self, folder: Path, done: Callable[[int], None]) -> None:
        """Write a page, sync."""
        with (folder / "table").open("r+b", buffering=0) as file:
            for step in range(_STEPS):
                page, version = step % _PAGES, step // _PAGES + 1
                os.pwrite(file.fileno(), _page(version), (2 * page + version % 2) * _PAGE)
                os.fdatasync(file.fileno())
                done(step)

    def check(self, folder: Path, done: int) -> str:
        """Each page has its last version, or the one that was being written, and that whole."""
        data = (folder / "table").read_bytes()
        for page in range(_PAGES):
            least = (done - page + _PAGES - 1) // _PAGES
            copies = [data[at * _PAGE : (at + 1) * _PAGE] for at in (2 * page, 2 * page + 1)]
            usable = [copy for copy in copies if not self.checked or _is_whole(copy)]
            if not usable:
                return f"page {page} has no whole copy"
            newest = max(usable, key=_version)
            if not _is_whole(newest):
                return f"page {page} is torn"
            if _version(newest) < least:
                return f"page {page} has version {_version(newest)}, not {least}"
        return ""


@dataclass(frozen=True)
class Sqlite:
    """SQLite with a write-ahead log, synced at each commit (synchronous=FULL)."""

    def prepare(self, folder: Path) -> None:
        """An empty table."""
        with closing(self._open(folder)) as database:
            database.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, content BLOB)")
            database.commit()

    def run(self, folder: Path, done: Callable[[int], None]) -> None:
        """A row a transaction."""
        with closing(self._open(folder)) as database:
            for step in range(_STEPS):
                database.execute("INSERT INTO t VALUES (?, ?)", (step, _content(step)))
                database.commit()
                done(step)

    def check(self, folder: Path, done: int) -> str:
        """It is in order, and has each row that was committed."""
        with closing(self._open(folder)) as database:
            [[verdict]] = database.execute("PRAGMA integrity_check").fetchall()
            if verdict != "ok":
                return f"the database is damaged: {verdict}"
            rows = database.execute("SELECT n, content FROM t ORDER BY n").fetchall()
        if [row[0] for row in rows] != list(range(len(rows))) or len(rows) < done:
            return f"{done} rows were committed, and {len(rows)} are there"
        if any(content != _content(number) for number, content in rows):
            return "a row has another content"
        return ""

    def _open(self, folder: Path) -> sqlite3.Connection:
        database = sqlite3.connect(folder / "database")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        return database


PLANTED: dict[str, Load] = {
    "no_data_sync": NewFiles(sync_data=False),
    "no_folder_sync": NewFiles(sync_folder=False),
    "torn_page": Pages(checked=False),
}
"""Programs with a mistake."""

SOUND: dict[str, Load] = {
    "synced_files": NewFiles(),
    "checked_pages": Pages(),
    "sqlite_full": Sqlite(),
}
"""The first two are the same ones without it."""

LOADS: dict[str, Load] = PLANTED | SOUND


def _content(step: int) -> bytes:
    return (b"%08d" % step) * (_FILE // 8)


def _page(version: int) -> bytes:
    body = version.to_bytes(_WORD, "little") * (_PAGE // _WORD - 1)
    return body + zlib.crc32(body).to_bytes(_WORD, "little")


def _version(page: bytes) -> int:
    return int.from_bytes(page[:_WORD], "little")


def _is_whole(page: bytes) -> bool:
    return page == _page(_version(page))
