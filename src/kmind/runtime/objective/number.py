# SPDX-License-Identifier: Apache-2.0
"""The number that a server or a command says, or why it is none."""

from __future__ import annotations

import math
import re

from kmind.runtime.objective.command import GapError
from kmind.util.text import clean

__all__ = ["parse_number", "short"]

# Fixed point in millionths, in 64 bits.
_MOST = (1 << 63) / 1e6
_MOST_DIGITS = 400  # the largest double written out has 309
_SHOWN = 60
# As C and Go print them: no digits of other scripts and no "_", which Python would take.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf(inity)?|nan)", re.A | re.I)


def parse_number(text: str) -> float:
    """The number; GapError ``text`` where it is none, ``range`` where no ratio can be made.

    Objectives are compared by their ratio, so a number below zero is out of range.
    """
    text = text.strip()
    if len(text) > _MOST_DIGITS or not _NUMBER.fullmatch(text):
        raise GapError("text", f"this is not a number: {short(text)}")
    value = float(text)
    if not math.isfinite(value) or abs(value) >= _MOST:
        raise GapError("range", f"{short(text)} is not a finite number below {_MOST:.3g}")
    if value < 0:
        raise GapError(
            "range",
            f"{short(text)}: an objective is compared by ratio and cannot be negative",
        )
    return abs(value)


def short(text: str) -> str:
    """The beginning of ``text``, quoted, on one line."""
    return repr(clean(text[: _SHOWN + 1], _SHOWN))
