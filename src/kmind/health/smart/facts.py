# SPDX-License-Identifier: Apache-2.0
"""Facts of a disk, one unit each, and which of them cannot be true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from kmind.health.smart.document import count

__all__ = ["FACTS", "Fact", "Facts"]


class Fact(NamedTuple):
    """One fact: its name, unit, the range that a real disk can be in, and why beyond it not."""

    name: str
    unit: str
    help: str
    least: int = 0
    most: int = 2**32 - 2
    beyond: str = "more than a disk can have counted"


_PERCENT = "no percentage"

FACTS: Mapping[str, Fact] = {
    fact.name: fact
    for fact in (
        Fact("reallocated", "sectors", "sectors replaced by spare ones"),
        Fact("pending", "sectors", "sectors that cannot be read and wait for a write"),
        Fact("offline_uncorrectable", "sectors", "sectors that the disk's own scan cannot read"),
        Fact("reported_uncorrectable", "errors", "errors that the disk could not correct"),
        Fact("crc_errors", "errors", "transfers with a wrong checksum: cable or connector"),
        Fact("command_timeouts", "commands", "commands that took too long"),
        Fact("temperature", "degrees Celsius", "temperature now", -40, 110, "no temperature"),
        # Thirty years; the first disks with SMART are of 1995.
        Fact("hours", "hours", "time with power", 0, 262_980, "more than 30 years"),
        Fact("critical_warning", "bits", "NVMe's warning bits", 0, 63, "has bits without meaning"),
        Fact("media_errors", "errors", "NVMe's errors of media and data integrity"),
        # NVMe says 255 for all that is more than 254.
        Fact("percentage_used", "percent", "NVMe's rated life used", 0, 255, _PERCENT),
        Fact("available_spare", "percent", "spare blocks that are left", 0, 100, _PERCENT),
        Fact("wear_percent", "percent", "rated life used, of any SSD", 0, 255, _PERCENT),
        Fact(
            "bytes_written", "bytes", "written by the host", 0, 2**64, "more than a disk can take"
        ),
        Fact("grown_defects", "sectors", "entries of SCSI's grown defect list"),
        Fact("power_cycles", "times", "times that it was switched on"),
    )
}
"""All facts that a record can have, by name."""

_ALL_ONES = frozenset(2**bits - 1 for bits in (16, 32, 48, 64, 128))


class Facts:
    """Collects facts and doubts. ``known`` is name to value, ``doubtful`` name to reason.

    A doubtful fact may stand in ``known``, too, as it was read; nothing is judged by it.
    """

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self.doubtful: dict[str, str] = {}

    def put(self, name: str, value: int, doubt: str = "") -> None:
        """Keep a value, with a doubt if there is one or if the value cannot be."""
        fact = FACTS[name]
        self.known[name] = value
        if not fact.least <= value <= fact.most:
            doubt = doubt or fact.beyond
        elif value in _ALL_ONES and fact.most > 2**16:
            doubt = doubt or "all bits are set: not counted, or full"
        if doubt:
            self.doubtful[name] = doubt
        else:
            self.doubtful.pop(name, None)

    def doubt(self, name: str, why: str) -> None:
        """Say why a fact is not to be believed, or could not be read."""
        self.doubtful.setdefault(name, why)

    def read(self, name: str, holder: Mapping[str, Any], key: str, *, scale: int = 1) -> None:
        """Keep ``holder[key]`` times ``scale``; nothing if it is not there."""
        if holder.get(key) is None and holder.get(f"{key}_s") is None:
            return
        value = count(holder, key, least=FACTS[name].least)
        if value is None:
            self.doubt(name, f"{key} is no number that it can be")
        else:
            self.put(name, value * scale)

    def credible(self, name: str) -> int | None:
        """The value of a fact that nothing speaks against, or None."""
        return None if name in self.doubtful else self.known.get(name)
