# SPDX-License-Identifier: Apache-2.0
"""Versions of small files and of lines: each record says in ``schema`` which one it is of.

SQLite files have theirs in ``kmind.util.sqlite``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kmind.errors import KmindError, LaterVersionError

__all__ = ["Format"]

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Format:
    """One kind of record, in all versions that there were.

    ``upgrades[0]`` leads from version 1 to 2, and so on. An upgrade takes the record as a dict, and
    returns the next one. What a record holds may be anything, and so is what an upgrade raises:
    it belongs inside ``kmind.util.foreign.foreign``.
    """

    name: str
    upgrades: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = ()

    @property
    def version(self) -> int:
        """The present one."""
        return len(self.upgrades) + 1

    @property
    def schema(self) -> str:
        """Text of the present version, for the field ``schema``: "kmind.state/1"."""
        return f"{self.name}/{self.version}"

    def upgrade(self, record: object) -> dict[str, Any]:
        """Bring a record to the present version.

        Raises LaterVersionError where it is of a later one, KmindError where it is of none.
        """
        if not isinstance(record, dict):
            raise KmindError("it is not an object")
        schema = record.get("schema")
        name, slash, number = schema.partition("/") if isinstance(schema, str) else ("", "", "")
        if name != self.name or not slash or not _NUMBER.fullmatch(number):
            raise KmindError(f"it does not say which version of {self.name} it is")
        if int(number) > self.version:
            raise LaterVersionError(f"it is {schema}, and this kmind knows {self.schema}")
        for upgrade in self.upgrades[int(number) - 1 :]:
            record = upgrade(record)
        return record | {"schema": self.schema}
