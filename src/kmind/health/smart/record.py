# SPDX-License-Identifier: Apache-2.0
"""One record of a disk, whatever path leads to it: what it says of itself, and what is doubtful."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kmind.errors import LaterVersionError
from kmind.health.smart.attributes import Attribute, attributes, facts_of, is_seagate
from kmind.health.smart.document import SmartError, count, items, parse, table, word
from kmind.health.smart.facts import Facts
from kmind.health.smart.logs import ata_facts, nvme_facts, scsi_facts

__all__ = ["OLDEST", "SmartRecord", "read_record", "record_of"]

OLDEST = (7, 0)
"""The first smartctl whose JSON is read; 6.6 had none in a release."""

# As smartctl says it of ATA ("STANDBY mode, exit(2)") and SCSI ("STANDBY BY TIMER mode").
_ASLEEP = re.compile(r"device is in [a-z_ ()0-9]*(standby|sleep|idle)[a-z_ ()0-9]* mode", re.I)
_RAID = re.compile(r"megaraid|cciss|3ware|areca|aacraid|hpt|sssraid|marvell", re.I)
_USB = re.compile(r"^(usb|snt)", re.I)
_VOLUME = re.compile(r"\b(raid|logical|virtual|volume|perc|megaraid)\b", re.I)


@dataclass(frozen=True, slots=True)
class SmartRecord:
    """All that one output of smartctl says of a disk.

    ``facts`` are in the units of ``FACTS``; ``doubtful`` is name to reason, and a name in both was
    read but is not believed. ``passed`` is the disk's own verdict, None if it gave none. ``kind``
    is "hdd", "ssd" or "" (not known), ``path`` "sata", "sas", "nvme", "usb", "raid" (a member
    behind a controller), "volume" (a controller's volume, no disk) or "". ``time`` is in seconds
    since the epoch by the host's clock, 0 if not told. Exit bits are smartctl's (smartctl(8), EXIT
    STATUS), None if not told.
    """

    device: str
    type: str
    path: str
    kind: str
    model: str
    family: str
    serial: str
    wwn: str
    firmware: str
    capacity: int
    time: int
    asleep: bool
    passed: bool | None
    exit_bits: int | None
    self_test_failed: bool
    seagate: bool
    facts: Mapping[str, int]
    doubtful: Mapping[str, str]
    attributes: tuple[Attribute, ...]
    messages: tuple[str, ...]

    def credible(self, name: str) -> int | None:
        """The value of a fact that nothing speaks against, or None."""
        return None if name in self.doubtful else self.facts.get(name)


def read_record(data: bytes) -> SmartRecord:
    """The record in the bytes that smartctl wrote. Raises SmartError, or LaterVersionError."""
    return record_of(parse(data))


def record_of(document: Mapping[str, Any]) -> SmartRecord:
    """The record in a parsed document, whatever its fields hold.

    Raises SmartError if it is not of smartctl, or of no disk; LaterVersionError if its format has
    another major version.
    """
    device, tool = table(document.get("device")), table(document.get("smartctl"))
    _check_origin(document, device, tool)
    messages = _messages(tool)
    name = word(device.get("name")) or _asked_for(tool)
    if not name:
        raise SmartError("tells of no disk" + (f": {messages[0]}" if messages else ""))
    rows = attributes(document)
    model, family = _model(document), word(document.get("model_family"))
    path = _path(document, device)
    kind = _kind(document, path, rows)
    seagate = is_seagate(model, family)
    facts = _facts(document, rows, seagate=seagate, ssd=kind == "ssd")
    passed = table(document.get("smart_status")).get("passed")
    no_data = not rows and not facts.known and not isinstance(passed, bool)
    return SmartRecord(
        device=name,
        type=word(device.get("type")),
        path=path,
        kind=kind,
        model=model,
        family=family,
        serial=word(document.get("serial_number")),
        wwn=_wwn(document),
        firmware=word(document.get("firmware_version")) or word(document.get("scsi_revision")),
        capacity=count(table(document.get("user_capacity")), "bytes") or 0,
        time=count(table(document.get("local_time")), "time_t") or 0,
        asleep=no_data and any(map(_ASLEEP.search, messages)),
        passed=passed if isinstance(passed, bool) else None,
        exit_bits=_bits(tool),
        self_test_failed=_self_test_failed(document),
        seagate=seagate,
        facts=facts.known,
        doubtful=facts.doubtful,
        attributes=rows,
        messages=messages,
    )


def _check_origin(
    document: Mapping[str, Any], device: Mapping[str, Any], tool: Mapping[str, Any]
) -> None:
    if not tool and not (device and "protocol" in device):
        raise SmartError("is JSON, but not the output of smartctl --json")
    version = [part for part in items(tool.get("version"), 2) if type(part) is int]
    if version and tuple(version) < OLDEST:
        words = ".".join(map(str, version))[:20]
        raise SmartError(f"is of smartctl {words}", hint="smartctl 7.0 or later is needed")
    form = items(document.get("json_format_version"), 1)
    if form and type(form[0]) is int and form[0] > 1:
        raise LaterVersionError("is in a later format of smartctl than this kmind reads (1)")


def _messages(tool: Mapping[str, Any]) -> tuple[str, ...]:
    found = (word(table(entry).get("string"), 200) for entry in items(tool.get("messages"), 20))
    return tuple(text for text in found if text)


def _asked_for(tool: Mapping[str, Any]) -> str:
    # An open that failed leaves no "device", only the words of the command.
    words = items(tool.get("argv"))
    last = word(words[-1]) if len(words) > 1 else ""
    return last if last.startswith("/dev/") else ""


def _model(document: Mapping[str, Any]) -> str:
    for key in ("model_name", "scsi_model_name"):
        if name := word(document.get(key)):
            return name
    return f"{word(document.get('vendor'))} {word(document.get('product'))}".strip()


def _path(document: Mapping[str, Any], device: Mapping[str, Any]) -> str:
    driver, protocol = word(device.get("type")), word(device.get("protocol"))
    if _RAID.search(driver):
        return "raid"
    if _USB.search(driver) or "[USB" in word(device.get("info_name")):
        return "usb"
    if protocol == "SCSI":
        judged = "passed" in table(document.get("smart_status"))
        return "volume" if not judged and _VOLUME.search(_model(document)) else "sas"
    return {"ATA": "sata", "NVMe": "nvme"}.get(protocol, "")


def _kind(document: Mapping[str, Any], path: str, rows: tuple[Attribute, ...]) -> str:
    rate = count(document, "rotation_rate")
    if path == "nvme" or "nvme_smart_health_information_log" in document or rate == 0:
        return "ssd"
    if rate:
        return "hdd"
    # Disks from before ATA-8 tell no rate; smartctl gives these names to no SSD.
    spins = {(7, "Seek_Error_Rate"), (10, "Spin_Retry_Count")}
    return "hdd" if spins <= {(row.id, row.name) for row in rows} else ""


def _wwn(document: Mapping[str, Any]) -> str:
    wwn = table(document.get("wwn"))
    numbers = [count(wwn, key) for key in ("naa", "oui", "id")]
    if all(number is not None and number < 2**64 for number in numbers) and any(numbers[1:]):
        naa, oui, own = (number or 0 for number in numbers)
        return f"{naa:x}{oui:06x}{own:09x}"
    if unit := word(document.get("logical_unit_id"), 40).removeprefix("0x"):
        return unit
    spaces = items(document.get("nvme_namespaces"), 1)
    space = table(table(spaces[0]).get("eui64")) if spaces else {}
    vendor, unit_id = count(space, "oui") or 0, count(space, "ext_id") or 0
    whole = 0 < vendor < 2**24 and 0 < unit_id < 2**40
    return f"eui.{vendor:06x}{unit_id:010x}" if whole else ""


def _bits(tool: Mapping[str, Any]) -> int | None:
    bits = count(tool, "exit_status")
    return bits if bits is not None and bits < 256 else None


def _facts(
    document: Mapping[str, Any], rows: tuple[Attribute, ...], *, seagate: bool, ssd: bool
) -> Facts:
    facts = Facts()
    log = table(document.get("nvme_smart_health_information_log"))
    facts.read("hours", table(document.get("power_on_time")), "hours")
    facts.read("temperature", table(document.get("temperature")), "current")
    facts.read("power_cycles", document, "power_cycle_count")
    facts.read("available_spare", table(document.get("spare_available")), "current_percent")
    facts.read("wear_percent", table(document.get("endurance_used")), "current_percent")
    if facts.known.get("temperature") == 0:
        facts.doubt("temperature", "0 is what bridges and RAID controllers say for want of one")
    if log:
        nvme_facts(log, facts)
    ata_facts(document, facts)
    facts_of(rows, facts, seagate=seagate, ssd=ssd)
    scsi_facts(document, facts)
    _check_rate(facts)
    return facts


def _check_rate(facts: Facts) -> None:
    written, hours = facts.credible("bytes_written"), facts.credible("hours")
    # 64 GB/s is twice what four lanes of PCIe 6.0 carry.
    if written is not None and hours is not None and written > (hours + 1) * 3600 * 64 * 10**9:
        facts.doubt("bytes_written", "more than can be written in the hours that it has run")


def _self_test_failed(document: Mapping[str, Any]) -> bool:
    """True if the newest self-test that came to a result failed."""
    log = table(document.get("ata_smart_self_test_log"))
    for key in ("extended", "standard"):
        for entry in items(table(log.get(key)).get("table"), 30):
            passed = table(table(entry).get("status")).get("passed")
            if isinstance(passed, bool):
                return not passed
    return False
