# SPDX-License-Identifier: Apache-2.0
"""A manifest with three outcomes and a guard, and an agent whose counters a test sets."""

from typing import Literal

import msgspec

from kmind.extension import find_module
from kmind.extension.outcome import GuardPart, OutcomePart

BASE = find_module("readahead").manifest
MANIFEST = msgspec.structs.replace(
    BASE,
    outcomes=(
        OutcomePart(name="rate", help="x", better="higher", numerator=("reads", "faults")),
        OutcomePart(
            name="wait", help="x", better="lower", numerator=("device_ns",), denominator=("reads",)
        ),
        OutcomePart(
            name="cost",
            help="x",
            better="lower",
            numerator=("device_ns",),
            denominator=("reads",),
            floor=5.0,
        ),
    ),
    guards=(
        GuardPart(name="lost", help="x", better="lower", numerator=("removed_pages",), limit=3.0),
    ),
)


class CountingAgent:
    """Totals that a test sets; it counts how often it is read."""

    def __init__(self, backend: Literal["bpf", "sim"] = "bpf") -> None:
        self.backend = backend
        self.totals = dict.fromkeys(BASE.columns, 0)
        self.reads = 0

    def feature(self, column: int) -> int:
        self.reads += 1
        return list(self.totals.values())[column]
