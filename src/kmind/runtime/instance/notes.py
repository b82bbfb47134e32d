# SPDX-License-Identifier: Apache-2.0
"""Notes and status that an extension wrote: parsed, cleaned, and bounded."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from kmind.util.text import clean

__all__ = ["parse_note", "parse_status"]

_NAME = 40
_ITEMS = 32


def parse_note(note: bytes) -> tuple[str, dict[str, int | float | str]]:
    """Reason and evidence of a recommendation's note, cleaned; empty where there is none."""
    try:
        content = msgspec.json.decode(note.decode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return clean(note.decode("utf-8", "replace").rstrip("\0"), 200), {}
    if not isinstance(content, dict):
        return "", {}
    evidence = content.get("evidence")
    items = evidence.items() if isinstance(evidence, dict) else ()
    plain = {clean(str(name), _NAME): _scalar(value) for name, value in list(items)[:_ITEMS]}
    return clean(str(content.get("reason", "")), 400), plain


def parse_status(text: bytes) -> dict[str, int | float | str]:
    """An extension's status, cleaned and flat; empty where it is not JSON object."""
    try:
        content = msgspec.json.decode(text.decode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {clean(str(k), _NAME): _scalar(value) for k, value in list(content.items())[:_ITEMS]}


def _scalar(value: Any) -> int | float | str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) < 1 << 63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str):
        return clean(value, 200)
    try:
        return clean(msgspec.json.encode(value).decode(), 200)
    except (msgspec.MsgspecError, RecursionError):
        return "?"
