# SPDX-License-Identifier: Apache-2.0
"""Bytes that are said to be the output of ``smartctl --json``, and careful looks into them.

A disk's firmware, a USB bridge, a RAID controller and whoever saved the file have had a say in
every field: nothing has the type that it should have until it was looked at.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from kmind.errors import KmindError
from kmind.util.text import clean

__all__ = ["MOST_BYTES", "SmartError", "count", "items", "parse", "read_file", "table", "word"]

MOST_BYTES = 4 << 20
"""Longest output that is read; ``smartctl -x`` of a disk with full logs writes some 300 KB."""

_SAFE = 2**53  # whole numbers up to it are exact in any JSON (RFC 8259, section 6)
_MOST = 2**128 - 1  # NVMe's widest counters have 128 bits


class SmartError(KmindError):
    """Not the output of ``smartctl --json``; or smartctl could not be run."""


def read_file(path: Path) -> bytes:
    """The bytes of a regular file. Raises SmartError for any other, and for one that is too long.

    A pipe, a device or a folder under that name is refused, not waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise SmartError(f"cannot be opened: {why}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise SmartError("is not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise SmartError(f"cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(data) > MOST_BYTES:
        raise SmartError(f"has more than {MOST_BYTES >> 20} MiB; smartctl writes far less")
    return data


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def parse(data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``. Raises SmartError if there is none, or it is too deep."""
    if len(data) > MOST_BYTES:
        raise SmartError(f"has more than {MOST_BYTES >> 20} MiB; smartctl writes far less")
    if not data.strip():
        raise SmartError("is empty")
    try:
        # Model names come from firmware, and are not always UTF-8.
        document = json.loads(data.decode("utf-8-sig", "replace"), parse_constant=_refuse)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise SmartError(f"is not JSON, or is cut off: {error.msg} ({where})") from None
    except RecursionError:
        raise SmartError("is nested too deeply for the output of smartctl") from None
    except ValueError as error:
        raise SmartError(f"is not JSON: {clean(str(error), 100)}") from None
    if not isinstance(document, dict):
        raise SmartError(
            f"is a JSON {type(document).__name__}, not the object that smartctl writes"
        )
    return document


def table(value: Any) -> Mapping[str, Any]:
    """``value`` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Any, most: int = 512) -> list[Any]:
    """The first ``most`` elements of a JSON array; none of anything else."""
    return value[:most] if isinstance(value, list) else []


def word(value: Any, most: int = 100) -> str:
    """Text in one printable line, blanks at its ends removed; "" if it is none."""
    return clean(value, most).strip() if isinstance(value, str) else ""


def count(holder: Mapping[str, Any], key: str, *, least: int = 0) -> int | None:
    """A whole number from ``least`` to 2**128 - 1, or None.

    Of a number that JSON readers may round, smartctl writes the digits in ``KEY_s``
    (``json::ref::set_unsafe_uint128`` in its json.cpp): they count.
    """
    value = holder.get(key)
    digits = holder.get(f"{key}_s")
    large = isinstance(value, int | float) and abs(value) >= _SAFE
    if (value is None or large) and isinstance(digits, str):
        short = digits.isascii() and digits.isdigit() and len(digits) < 40
        value = int(digits) if short else value
    if isinstance(value, float):
        value = int(value) if value.is_integer() and abs(value) < _SAFE else None
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if least <= value <= _MOST else None
