# SPDX-License-Identifier: Apache-2.0
"""Attributes of ATA disks: packed raw values, units, and names that mean something else."""

import pytest
from health.smart.samples import Row, ata, encoded, row

from kmind.health.smart.attributes import is_used, parts
from kmind.health.smart.record import SmartRecord, read_record


def read(*rows: Row, **changes: object) -> SmartRecord:
    return read_record(encoded(ata(*rows, **changes)))


SSD = {"rotation": 0, "model": "EXAMPLE SSD"}


def test_seagate_packs_errors_and_operations_in_one_number() -> None:
    rate = row(7, "Seek_Error_Rate", (3 << 32) + 5000)
    record = read(rate, model="ST4000NM0035")
    assert parts(record.attributes[-1], record.seagate) == {"errors": 3, "operations": 5000}
    other = read(rate, model="HGST HUS724020ALE640")
    assert parts(other.attributes[-1], other.seagate) == {}


@pytest.mark.parametrize(
    ("raw", "timeouts", "doubtful"),
    [
        (29, 29, False),
        (0x0001_0001_0001, 1, False),
        (0x0004_0004_0004, 4, False),
        (0x0000_0002_0009, 9, False),
        # Those over 5 s are no more than all: this is packed in some other way.
        (0x0000_0009_0002, 2, True),
        (0x0001_0001_0001_0001, 1, True),
    ],
)
def test_three_counters_in_command_timeouts(raw: int, timeouts: int, doubtful: bool) -> None:
    record = read(row(188, "Command_Timeout", raw))
    assert record.facts["command_timeouts"] == timeouts
    assert ("command_timeouts" in record.doubtful) == doubtful


@pytest.mark.parametrize(
    ("raw", "text", "degrees"),
    [
        (36, "36", 36),
        (240518299684, "36 (Min/Max 2/56)", 36),
        (240518299684, "", 36),
        (365, "36.5", 36),
        (0xFB, "-5", -5),
        (0xFB, "", -5),
    ],
)
def test_temperature_is_the_low_byte(raw: int, text: str, degrees: int) -> None:
    record = read(row(194, "Temperature_Celsius", raw, text), temperature=None)
    assert record.credible("temperature") == degrees


def test_temperature_that_is_a_packed_number_is_taken_from_the_attribute() -> None:
    record = read(row(194, "Temperature_Celsius", 240518299684, "36 (Min/Max 2/56)"),
                  temperature={"current": 240518299684})  # fmt: skip
    assert record.credible("temperature") == 36


@pytest.mark.parametrize(
    ("name", "raw", "text", "hours"),
    [
        ("Power_On_Hours", 57951993765239, "40311 (52 181 0)", 40311),
        ("Power_On_Hours", (7 << 32) + 40311, "", 40311),
        ("Power_On_Hours_and_Msec", 1 << 40, "1234h+56m+07.100s", 1234),
        ("Power_On_Minutes", 74100, "1235h+00m", 1235),
        ("Power_On_Minutes", 74100, "74100", None),
        ("Proprietary_9", 12, "12", None),
    ],
)
def test_hours_that_smartctl_does_not_tell(
    name: str, raw: int, text: str, hours: int | None
) -> None:
    record = read(row(9, name, raw, text), power_on_time=None)
    assert record.credible("hours") == hours


def test_hours_of_more_than_a_life_are_doubtful() -> None:
    record = read(row(9, "Power_On_Hours", 0xFFFFFFFF), power_on_time={"hours": 57951993765239})
    assert "30 years" in record.doubtful["hours"]


def test_packed_reallocated_sectors_are_doubtful() -> None:
    record = read(row(5, "Reallocated_Sector_Ct", 0x0002_0000_0003, "3 (2 0)"))
    assert record.facts["reallocated"] == 3
    assert record.credible("reallocated") is None


@pytest.mark.parametrize("raw", [0xFFFF, 0xFFFFFFFF, 2**48 - 1, 2**40])
def test_counter_with_all_bits_set_is_doubtful(raw: int) -> None:
    record = read(row(197, "Current_Pending_Sector", raw))
    assert record.credible("pending") is None
    assert record.facts["pending"] == raw


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (187, "Total_Unc_NAND_Reads"),
        (197, "Not_In_Use"),
        (198, "Host_Reads_GiB"),
        (199, "Write_Sectors_Tot_Ct"),
        (5, "Unknown_Attribute"),
    ],
)
def test_id_with_another_name_is_shown_and_no_fact(number: int, name: str) -> None:
    record = read(row(number, name, 4711))
    assert 4711 not in record.facts.values()
    shown = next(each for each in record.attributes if each.id == number)
    assert (shown.name, shown.raw, is_used(shown)) == (name, 4711, False)


@pytest.mark.parametrize(
    ("number", "name", "value", "raw", "wear", "doubtful"),
    [
        (177, "Wear_Leveling_Count", 91, 1661, 9, False),
        (202, "Percent_Lifetime_Remain", 94, 6, 6, False),
        (202, "Perc_Rated_Life_Used", 94, 6, 6, False),
        (231, "SSD_Life_Left", 97, 97, 3, False),
        (231, "SSD_Life_Left", 100, 0, 0, False),
        (231, "SSD_Life_Left", 100, 40, 0, True),
        (233, "Media_Wearout_Indicator", 55, 0, 45, False),
        (233, "Media_Wearout_Indicator", 200, 0, None, True),
        (233, "NAND_GB_Written_TLC", 55, 900, None, False),
        (230, "Media_Wearout_Indicator", 100, 0x1800_1400, None, False),
    ],
)
def test_wear_is_the_normalised_value(
    number: int, name: str, value: int, raw: int, wear: int | None, doubtful: bool
) -> None:
    record = read(row(number, name, raw, value=value), **SSD)
    assert record.facts.get("wear_percent") == wear
    assert ("wear_percent" in record.doubtful) == doubtful


def test_hard_disk_has_no_wear_of_an_ssd() -> None:
    assert "wear_percent" not in read(row(202, "Percent_Lifetime_Remain", 6, value=94)).facts


def test_statistics_of_the_standard_go_before_attributes_of_vendors() -> None:
    pages = [
        {"number": 1, "table": [{"offset": 24, "value": 4000, "flags": {"valid": True}}]},
        {"number": 7, "table": [{"offset": 8, "value": 12, "flags": {"valid": True}},
                                {"offset": 8, "value": 99, "flags": {"valid": False}}]},
    ]  # fmt: skip
    record = read(
        row(177, "Wear_Leveling_Count", 1, value=91),
        row(241, "Total_LBAs_Written", 5),
        ata_device_statistics={"pages": pages},
        logical_block_size=4096,
        **SSD,
    )
    assert record.credible("wear_percent") == 12
    assert record.credible("bytes_written") == 4000 * 4096


def test_written_bytes_have_the_unit_in_the_name() -> None:
    record = read(row(241, "Host_Writes_32MiB", 10), **SSD)
    assert record.credible("bytes_written") == 10 * (32 << 20)
    vague = read(row(241, "Total_LBAs_Written", 10), **SSD)
    assert "several units" in vague.doubtful["bytes_written"]


def test_first_row_of_an_id_counts() -> None:
    twice = ata()
    twice["ata_smart_attributes"]["table"].append(row(197, "Current_Pending_Sector", 9))
    assert read_record(encoded(twice)).credible("pending") == 0
