# SPDX-License-Identifier: Apache-2.0
"""A TOML file as a record, with errors that name file, line and field."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from kmind.errors import ModuleError
from kmind.extension.files import read_beneath
from kmind.util.foreign import foreign, one_line

__all__ = ["TomlFile"]

_Record = TypeVar("_Record")

_MOST = 1 << 20  # bytes
_LONG = 500  # characters of what a message says

_FIELD = re.compile(r"(\w*)(?:\[(\d+)\])?\.?(.*)")
# How a record's own check names the field at fault: "hook[1].program: ...".
_NAMED = re.compile(r"([a-z_]+(?:\[\d+\])?(?:\.\w+)*): (.*)", re.DOTALL)


class TomlFile:
    """The text of one file. Raises ModuleError if it cannot be read, or is no text."""

    def __init__(self, path: Path, *, hint: str = "") -> None:
        self.path = path
        try:
            self._text = read_beneath(path.parent, path.name, _MOST).decode("utf-8")
        except OSError as error:
            raise ModuleError(f"{path}: {error.strerror}", hint=hint) from None
        except UnicodeDecodeError as error:
            raise ModuleError(f"{path}: not UTF-8 at byte {error.start}") from None

    def read(self, record: type[_Record]) -> _Record:
        """The file as that record; ModuleError names the line and the field at fault."""
        with foreign(lambda why: ModuleError(f"{self.path}: {why}")):
            return self._read(record)

    def _read(self, record: type[_Record]) -> _Record:
        try:
            return msgspec.convert(tomllib.loads(self._text), record, strict=True)
        except tomllib.TOMLDecodeError as error:
            # "Expected ']' ... (at line 15, column 8)", or "(at end of document)"
            match = re.search(r"at line (\d+)", str(error))
            line = int(match[1]) if match else len(self._text.splitlines())
            raise ModuleError(f"{self.path}:{line}: not TOML: {error}") from None
        except msgspec.ValidationError as error:
            # "Expected `int`, got `str` - at `$.parameter[1].minimum`"
            message, _, where = str(error).partition(" - at `$")
            field = where.strip("`.")
            if unknown := re.search(r"unknown field `(\w+)`", message):
                field = ".".join(filter(None, [field, unknown[1]]))
            elif named := _NAMED.fullmatch(message):
                field, message = ".".join(filter(None, [field, named[1]])), named[2]
            raise self.wrong(field, message) from None

    def wrong(self, field: str, message: str, *, hint: str = "") -> ModuleError:
        """The error for a field such as ``knob[0].name``; "" for the file as a whole."""
        match = _FIELD.fullmatch(field)
        table, index, key = match.groups("") if match else (field, "", "")
        line = self._line_of(table, int(index or 0), re.split(r"[.\[]", key)[0]) if field else 1
        what = f"{field}: {message}" if field else message
        return ModuleError(f"{self.path}:{line or 1}: {one_line(what, _LONG)}", hint=hint)

    def _line_of(self, table: str, index: int, key: str) -> int:
        # The line of a key, else of its table's header, else of an inline table, else 0.
        current, seen, header = "", -1, 0
        for number, line in enumerate(self._text.splitlines(), 1):
            if match := re.match(r"\s*\[\[?\s*([\w.]+)\s*\]", line):
                current = match[1]
                seen += current == table
                if current == table and seen == index:
                    header = number
            name = line.partition("=")[0].strip()
            if not current and name == table:
                header = number
            if key and current == table and seen == index and name == key:
                return number
        return header
