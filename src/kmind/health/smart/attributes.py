# SPDX-License-Identifier: Apache-2.0
"""SMART attributes of ATA disks: which of them are facts, and how their raw values are packed.

An id means something only together with the name that smartctl gives it for that model: where a
vendor uses an id otherwise, or it is unknown, the attribute is shown and nothing is made of it.

Sources: the formats and names in smartmontools' drivedb.h (7.3/5533: the entry DEFAULT, and those
of the vendors), smartctl(8) on ``-v``; Seagate's "SMART Attribute Specification" for 1, 7, 188 and
195; Micron's TN-FD-22 on 202; Intel's and Samsung's product manuals on 233 and 177.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from kmind.health.smart.document import count, items, table, word
from kmind.health.smart.facts import Facts

__all__ = [
    "COUNTERS",
    "WEAR",
    "Attribute",
    "Counter",
    "Wear",
    "attributes",
    "facts_of",
    "is_seagate",
    "is_used",
    "parts",
]

_RAW = 2**64 - 1  # raw values have 48 bits; some vendors' formats take 56 or 64


class Attribute(NamedTuple):
    """One row of the table, as the disk gave it; a number that was none is None."""

    id: int
    name: str
    value: int | None
    worst: int | None
    threshold: int | None
    prefail: bool
    failed: str
    """"now", "past" or "", as smartctl found value and worst against the threshold."""
    raw: int | None
    text: str


class Counter(NamedTuple):
    """A fact that an attribute counts, and the names under which it does."""

    id: int
    fact: str
    names: frozenset[str]


class Wear(NamedTuple):
    """An attribute whose normalised value is the rated life that is left, in percent.

    ``told`` means that vendors keep a percentage, left or used, in the raw value, too.
    """

    id: int
    names: frozenset[str]
    told: bool


def _counter(id: int, fact: str, *names: str) -> Counter:
    return Counter(id, fact, frozenset(names))


COUNTERS = (
    _counter(5, "reallocated", "Reallocated_Sector_Ct", "Reallocated_Block_Count",
             "Reallocate_NAND_Blk_Cnt", "Retired_Block_Count"),
    _counter(12, "power_cycles", "Power_Cycle_Count"),
    _counter(187, "reported_uncorrectable", "Reported_Uncorrect", "Uncorrectable_Error_Cnt",
             "Uncorrectable_ECC_Ct", "Reported_UE_Counts"),
    _counter(188, "command_timeouts", "Command_Timeout", "Command_Timeouts"),
    _counter(197, "pending", "Current_Pending_Sector", "Pending_Sector_Count",
             "Current_Pending_ECC_Cnt", "Total_Pending_Sectors"),
    _counter(198, "offline_uncorrectable", "Offline_Uncorrectable", "Total_Offl_Uncorrectabl",
             "Offline_Scan_UNC_SectCt"),
    _counter(199, "crc_errors", "UDMA_CRC_Error_Count", "CRC_Error_Count", "SATA_CRC_Error_Count",
             "SATA_CRC_Error"),
)  # fmt: skip
"""Attributes that are counters, by the id and the names that drivedb.h has for it."""

WEAR = (
    Wear(202, frozenset({"Percent_Lifetime_Remain", "Percent_Lifetime_Used",
                         "Perc_Rated_Life_Used"}), True),
    Wear(231, frozenset({"SSD_Life_Left", "SSD_Life_Left_Perc", "Lifetime_Left",
                         "Percent_Lifetime_Remain", "Perc_Rated_Life_Remain"}), True),
    Wear(169, frozenset({"Remaining_Lifetime_Perc", "Lifetime_Remaining%"}), True),
    Wear(233, frozenset({"Media_Wearout_Indicator", "Remaining_Lifetime_Perc"}), False),
    Wear(177, frozenset({"Wear_Leveling_Count", "Lifetime_Remaining%",
                         "DriveLife_Remaining%"}), False),
)  # fmt: skip
"""Attributes of SSDs that tell of wear, the plainest first."""

_TEMPERATURES: Mapping[int, frozenset[str]] = {
    194: frozenset({"Temperature_Celsius", "Temperature_Internal", "Drive_Temperature",
                    "Device_Temperature"}),
    190: frozenset({"Airflow_Temperature_Cel", "Temperature_Celsius", "Temperature_Case",
                    "Case_Temperature", "Drive_Temperature"}),
}  # fmt: skip

_WRITTEN = {
    "Host_Writes_32MiB": 32 << 20,
    "Host_Writes_GiB": 1 << 30,
    "Lifetime_Writes_GiB": 1 << 30,
    "Total_Writes_GiB": 1 << 30,
    "Total_Writes_GB": 10**9,
}


def attributes(document: Mapping[str, Any]) -> tuple[Attribute, ...]:
    """The rows of the table of attributes that have an id, in their order, one for each id."""
    rows: dict[int, Attribute] = {}
    for entry in items(table(document.get("ata_smart_attributes")).get("table")):
        row = table(entry)
        number = count(row, "id")
        if number is not None and 0 < number < 256:
            rows.setdefault(number, _attribute(number, row))
    return tuple(rows.values())


def _attribute(number: int, row: Mapping[str, Any]) -> Attribute:
    raw, failed = table(row.get("raw")), word(row.get("when_failed"))
    value = count(raw, "value")
    return Attribute(
        id=number,
        name=word(row.get("name"), 40) or "Unknown_Attribute",
        value=_byte(row, "value"),
        worst=_byte(row, "worst"),
        threshold=_byte(row, "thresh"),
        prefail=table(row.get("flags")).get("prefailure") is True,
        failed=failed if failed in ("now", "past") else "",
        raw=value if value is not None and value <= _RAW else None,
        text=word(raw.get("string"), 60),
    )


def _byte(row: Mapping[str, Any], key: str) -> int | None:
    value = count(row, key)
    return value if value is not None and value < 256 else None


def is_seagate(model: str, family: str) -> bool:
    """True for a disk of Seagate's, whose raw values are packed in a way of their own."""
    return family.startswith("Seagate") or re.match(r"(SEAGATE )?ST\d", model) is not None


def is_used(row: Attribute) -> bool:
    """True if facts are made of the attribute: its id and name are known together."""
    counted = any(row.id == each.id and row.name in each.names for each in (*COUNTERS, *WEAR))
    if row.id == 241:
        return row.name in _WRITTEN or row.name == "Total_LBAs_Written"
    hours = row.id == 9 and row.name.startswith("Power_On")
    return counted or hours or row.name in _TEMPERATURES.get(row.id, ())


def parts(row: Attribute, seagate: bool) -> dict[str, int]:
    """The numbers packed in a raw value, by name; none where it is one number, or unknown."""
    if row.raw is None:
        return {}
    if row.id in (1, 7, 195) and seagate:
        return {"errors": row.raw >> 32, "operations": row.raw & 0xFFFFFFFF}
    if row.id == 188 and row.raw > 0xFFFF:
        return {
            "timeouts": row.raw & 0xFFFF,
            "over_5s": row.raw >> 16 & 0xFFFF,
            "over_7.5s": row.raw >> 32 & 0xFFFF,
        }
    if row.id in _TEMPERATURES and row.raw > 0xFF and row.name in _TEMPERATURES[row.id]:
        return {"temperature": _low_byte(row.raw)}
    if row.id == 9 and row.raw > 0xFFFFFF and row.name == "Power_On_Hours":
        return {"hours": _first(row.text, row.raw & 0xFFFFFFFF)}
    return {}


def facts_of(rows: tuple[Attribute, ...], facts: Facts, *, seagate: bool, ssd: bool) -> None:
    """Add to ``facts`` what the attributes tell, and what is doubtful of it.

    Facts that are there already, from a better source, stay.
    """
    by_id = {row.id: row for row in rows}
    for counter in COUNTERS:
        row = by_id.get(counter.id)
        if row and row.name in counter.names and facts.credible(counter.fact) is None:
            _count(row, counter.fact, facts, seagate)
    if facts.credible("temperature") is None:
        _temperature(by_id, facts)
    if facts.credible("hours") is None:
        _hours(by_id.get(9), facts)
    if ssd and facts.credible("wear_percent") is None:
        _wear(by_id, facts)
    if facts.credible("bytes_written") is None:
        _written(by_id.get(241), facts)


def _count(row: Attribute, fact: str, facts: Facts, seagate: bool) -> None:
    if row.raw is None:
        facts.doubt(fact, f"the raw value of attribute {row.id} is no number")
    elif row.id == 188 and row.raw > 0xFFFF:
        low, middle, high = parts(row, seagate).values()
        # Each counts those of the one before that took longer still.
        falls = low >= middle >= high and not row.raw >> 48
        doubt = "" if falls else "its three counters do not go together"
        facts.put(fact, low, doubt)
    elif row.id == 5 and row.raw > 0xFFFF:
        facts.put(
            fact, _first(row.text, row.raw & 0xFFFF), "packed with numbers of no known meaning"
        )
    else:
        facts.put(fact, row.raw)


def _temperature(rows: Mapping[int, Attribute], facts: Facts) -> None:
    for number, names in _TEMPERATURES.items():
        row = rows.get(number)
        if row is None or row.raw is None or row.name not in names:
            continue
        # smartctl knows the few models that count in tenths; its text is in degrees.
        value = _first(row.text, _low_byte(row.raw))
        if value:
            facts.put("temperature", value)
            return


def _low_byte(raw: int) -> int:
    low = raw & 0xFF
    return low - 256 if low > 127 else low


def _first(text: str, otherwise: int) -> int:
    """The number that a text begins with."""
    found = re.match(r"-?\d{1,12}(?!\d)", text)
    return int(found[0]) if found else otherwise


def _hours(row: Attribute | None, facts: Facts) -> None:
    if row is None or row.raw is None or not row.name.startswith("Power_On"):
        return
    whole = re.match(r"(\d{1,9})h?(?=\+|\s|$)", row.text)
    if whole and (row.name.startswith("Power_On_Hours") or "h" in whole[0]):
        facts.put("hours", int(whole[1]))
    elif row.name == "Power_On_Hours":
        facts.put("hours", row.raw & 0xFFFFFFFF)
    else:
        facts.doubt("hours", f"attribute 9 is {row.name}, in a unit that is not known")


def _wear(rows: Mapping[int, Attribute], facts: Facts) -> None:
    for wear in WEAR:
        row = rows.get(wear.id)
        if row is None or row.name not in wear.names or row.value is None:
            continue
        if row.value > 100:
            facts.doubt("wear_percent", f"attribute {row.id} has {row.value} for percent left")
            continue
        doubt = ""
        if wear.told and row.raw is not None and 0 < row.raw <= 100:
            agrees = min(abs(row.raw - row.value), abs(100 - row.raw - row.value)) <= 1
            doubt = "" if agrees else f"attribute {row.id} says {row.value} and {row.raw}"
        facts.put("wear_percent", 100 - row.value, doubt)
        return


def _written(row: Attribute | None, facts: Facts) -> None:
    if row is None or row.raw is None:
        return
    if row.name in _WRITTEN:
        facts.put("bytes_written", row.raw * _WRITTEN[row.name])
    elif row.name == "Total_LBAs_Written":
        facts.put("bytes_written", row.raw * 512, "vendors count attribute 241 in several units")
