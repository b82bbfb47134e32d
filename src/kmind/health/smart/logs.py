# SPDX-License-Identifier: Apache-2.0
"""Facts from logs: NVMe's health log, SCSI's log pages, and the statistics of ATA.

Sources: NVM Express Base Specification 2.0, figure 207 (SMART / Health Information); SPC-5 and
SBC-4 on error counter pages and defect lists; ACS-4, 9.5 (device statistics).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from kmind.health.smart.document import count, items, table
from kmind.health.smart.facts import Facts

__all__ = ["DATA_UNIT", "ata_facts", "nvme_facts", "scsi_facts"]

DATA_UNIT = 512_000
"""Bytes in a data unit of NVMe: 1,000 times 512, whatever the size of a block."""

_NVME = (
    "critical_warning",
    "media_errors",
    "percentage_used",
    "available_spare",
)


def nvme_facts(log: Mapping[str, Any], facts: Facts) -> None:
    """Add what the health log of an NVMe disk tells."""
    for name in _NVME:
        facts.read(name, log, name)
    for name, key in (
        ("temperature", "temperature"),
        ("hours", "power_on_hours"),
        ("power_cycles", "power_cycles"),
    ):
        if facts.credible(name) is None:
            facts.read(name, log, key)
    facts.read("bytes_written", log, "data_units_written", scale=DATA_UNIT)
    if "percentage_used" in facts.known:
        facts.put("wear_percent", facts.known["percentage_used"])
    _doubt_spare(log, facts)
    _doubt_errors(log, facts)
    _doubt_empty(log, facts)


def _doubt_spare(log: Mapping[str, Any], facts: Facts) -> None:
    warning = facts.credible("critical_warning")
    least = count(log, "available_spare_threshold")
    spare = facts.credible("available_spare")
    # Bit 0 says that the spare is below the threshold: a log that says both is at odds.
    if warning is not None and spare is not None and least and spare < least and not warning & 1:
        facts.doubt("available_spare", f"below its threshold of {least}, and no warning is set")


def _doubt_errors(log: Mapping[str, Any], facts: Facts) -> None:
    errors = facts.credible("media_errors")
    reads, writes = count(log, "host_reads"), count(log, "host_writes")
    if errors and reads is not None and writes is not None and errors > reads + writes:
        facts.doubt("media_errors", "more errors than commands")


def _doubt_empty(log: Mapping[str, Any], facts: Facts) -> None:
    # Some bridges and firmwares answer with zeros. A disk that can answer has been switched on.
    keys = ("power_cycles", "power_on_hours", "host_reads", "host_writes", "available_spare")
    if all(count(log, key) == 0 for key in keys):
        for name in tuple(facts.known):
            facts.doubt(name, "the whole log is empty")


def scsi_facts(document: Mapping[str, Any], facts: Facts) -> None:
    """Add what the log pages of a SCSI or SAS disk tell."""
    facts.read("grown_defects", document, "scsi_grown_defect_list")
    facts.read("wear_percent", document, "scsi_percentage_used_endurance_indicator")
    pages = table(document.get("scsi_error_counter_log"))
    errors = [
        count(table(pages.get(page)), "total_uncorrected_errors")
        for page in ("read", "write", "verify")
        if page in pages
    ]
    if errors and None not in errors:
        facts.put("reported_uncorrectable", sum(error or 0 for error in errors))
    elif errors:
        facts.doubt("reported_uncorrectable", "a count of uncorrected errors is no number")
    text = table(pages.get("write")).get("gigabytes_processed")
    if isinstance(text, str) and len(text) < 40:
        try:
            written = Decimal(text) * 10**9
        except InvalidOperation:
            written = Decimal("nan")
        if written.is_finite() and 0 <= written < 2**64:
            facts.put("bytes_written", int(written))
        else:
            facts.doubt("bytes_written", "gigabytes_processed is no number that it can be")


def ata_facts(document: Mapping[str, Any], facts: Facts) -> None:
    """Add what the device statistics of an ATA disk tell: the standard fixes their units."""
    for entry in items(table(document.get("ata_device_statistics")).get("pages"), 32):
        page = table(entry)
        for cell in items(page.get("table")):
            row = table(cell)
            flags = table(row.get("flags"))
            if flags.get("valid") is False:
                continue
            where = (count(page, "number"), count(row, "offset"))
            if where == (7, 8) and facts.credible("wear_percent") is None:
                facts.read("wear_percent", row, "value")
            elif where == (1, 24):
                block = count(document, "logical_block_size")
                if block is not None and 512 <= block <= 65536:
                    facts.read("bytes_written", row, "value", scale=block)
