# SPDX-License-Identifier: Apache-2.0
"""Output of smartctl as tests need it: small, of every path, with what is to be changed."""

import json
from copy import deepcopy
from typing import Any

TOOL = {"version": [7, 3], "exit_status": 0, "argv": ["smartctl", "--json", "/dev/sda"]}

Row = dict[str, Any]


def row(
    number: int,
    name: str,
    raw: int,
    text: str | None = None,
    *,
    value: int = 100,
    thresh: int = 0,
    failed: str = "",
    prefail: bool = False,
) -> Row:
    """Return a row of the table of attributes."""
    return {
        "id": number,
        "name": name,
        "value": value,
        "worst": value,
        "thresh": thresh,
        "when_failed": failed,
        "flags": {"prefailure": prefail},
        "raw": {"value": raw, "string": str(raw) if text is None else text},
    }


def ata(*rows: Row, model: str = "WDC WD40EFRX", rotation: int = 5400, **changes: Any) -> Row:
    """Return an ATA disk; further rows replace those of their id."""
    usual = (
        row(5, "Reallocated_Sector_Ct", 0),
        row(9, "Power_On_Hours", 1000),
        row(194, "Temperature_Celsius", 30),
        row(197, "Current_Pending_Sector", 0),
        row(198, "Offline_Uncorrectable", 0),
        row(199, "UDMA_CRC_Error_Count", 0),
    )
    table = {each["id"]: each for each in (*usual, *rows)}
    return {
        "json_format_version": [1, 0],
        "smartctl": deepcopy(TOOL),
        "device": {"name": "/dev/sda", "type": "sat", "protocol": "ATA"},
        "model_name": model,
        "serial_number": "WD-1",
        "wwn": {"naa": 5, "oui": 5358, "id": 77},
        "rotation_rate": rotation,
        "power_on_time": {"hours": 1000},
        "temperature": {"current": 30},
        "smart_status": {"passed": True},
        "ata_smart_attributes": {"table": list(table.values())},
    } | changes


def nvme(log: dict[str, Any] | None = None, **changes: Any) -> Row:
    """Return an NVMe disk; ``log`` changes its health log."""
    return {
        "json_format_version": [1, 0],
        "smartctl": deepcopy(TOOL),
        "device": {"name": "/dev/nvme0", "type": "nvme", "protocol": "NVMe"},
        "model_name": "EXAMPLE NVME",
        "serial_number": "NV-1",
        "smart_status": {"passed": True},
        "nvme_smart_health_information_log": {
            "critical_warning": 0,
            "temperature": 35,
            "available_spare": 100,
            "available_spare_threshold": 10,
            "percentage_used": 3,
            "data_units_written": 1000,
            "host_reads": 10_000,
            "host_writes": 10_000,
            "power_cycles": 3,
            "power_on_hours": 500,
            "media_errors": 0,
        }
        | (log or {}),
    } | changes


def scsi(**changes: Any) -> Row:
    """Return a SAS disk."""
    return {
        "smartctl": deepcopy(TOOL),
        "device": {"name": "/dev/sdb", "type": "scsi", "protocol": "SCSI"},
        "scsi_model_name": "EXAMPLE SAS",
        "serial_number": "SAS-1",
        "logical_unit_id": "0x5000c50012345678",
        "rotation_rate": 10_000,
        "power_on_time": {"hours": 2000, "minutes": 3},
        "temperature": {"current": 33, "drive_trip": 60},
        "smart_status": {"passed": True},
        "scsi_grown_defect_list": 0,
        "scsi_error_counter_log": {
            "read": {"gigabytes_processed": "10.5", "total_uncorrected_errors": 0},
            "write": {"gigabytes_processed": "20.25", "total_uncorrected_errors": 0},
        },
    } | changes


def asleep(device: str = "/dev/sda") -> Row:
    """Return what smartctl says of a disk that sleeps."""
    text = "Device is in STANDBY mode, exit(2)"
    return {
        "json_format_version": [1, 0],
        "smartctl": TOOL | {"exit_status": 2, "messages": [{"string": text}]},
        "device": {"name": device, "type": "sat", "protocol": "ATA"},
    }


def encoded(document: Any) -> bytes:
    """Return the bytes that smartctl would write."""
    return json.dumps(document).encode()
