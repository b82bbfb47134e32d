# SPDX-License-Identifier: Apache-2.0
"""One record for each path to a disk; any value in any place gives a record or a KmindError."""

import time
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from health.smart.samples import asleep, ata, encoded, nvme, row, scsi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmind.errors import KmindError
from kmind.health.smart.document import SmartError
from kmind.health.smart.facts import FACTS
from kmind.health.smart.follow import Follower
from kmind.health.smart.judge import RANK
from kmind.health.smart.record import read_record, record_of

STATISTICS = {"pages": [{"number": 7, "table": [{"offset": 8, "value": 1, "flags": {}}]}]}
TESTED = {"standard": {"table": [{"status": {"passed": False}}]}}
SAMPLES: dict[str, dict[str, Any]] = {
    "ata": ata(
        row(188, "Command_Timeout", 0x0001_0001_0001),
        row(241, "Host_Writes_32MiB", 10),
        row(231, "SSD_Life_Left", 97, value=97),
        rotation=0,
        ata_device_statistics=STATISTICS,
        ata_smart_self_test_log=TESTED,
        user_capacity={"bytes": 4 << 40},
        local_time={"time_t": 1},
    ),
    "seagate": ata(row(1, "Raw_Read_Error_Rate", 1 << 40), model="ST4000NM0035"),
    "nvme": nvme(),
    "scsi": scsi(),
    "asleep": asleep(),
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to each value of a document."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return the document with ``value`` at ``path``."""
    changed = deepcopy(document)
    if not path:
        return value
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return changed


def check(document: Any) -> None:
    """Fail unless a document gives a whole record, or a KmindError in one line."""
    refused = ""
    try:
        record = read_record(encoded(document))
    except KmindError as error:
        refused = str(error)
    if refused:
        assert "\n" not in refused
        return
    assert all(type(value) is int for value in record.facts.values())
    assert set(record.facts) | set(record.doubtful) <= set(FACTS)
    follower = Follower()
    first, second = follower.see(record), follower.see(record)
    assert first.judgement.state in {*RANK, "asleep", "unknown"}
    assert first.disk == second.disk
    assert second.alert == ""
    texts = [each.text for each in first.judgement.reasons]
    for text in (first.disk, *texts, *first.judgement.remarks, first.alert):
        assert text.isprintable()
    assert (first.judgement.state in ("watch", "failing")) == bool(texts)


VALUES = (
    None, True, False, 0, -1, 1, 255, 256, 2**31, 2**32 - 1, 2**53, 2**64, 2**128, 10**400,
    0.5, -1e308, "", "7", "\x1b[2J\n", "x" * 10_000, [], {}, [[]], [{}], {"": None}, [None] * 5_000,
)  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_wrong_value_in_each_place(name: str) -> None:
    sample = SAMPLES[name]
    for path in places(sample):
        for value in VALUES:
            check(put(sample, path, value))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_json_in_any_place(data: st.DataObject) -> None:
    sample = SAMPLES[data.draw(st.sampled_from(sorted(SAMPLES)))]
    path = data.draw(st.sampled_from(list(places(sample))))
    check(put(sample, path, data.draw(JSON)))


def test_tables_of_any_length_take_bounded_time() -> None:
    rows = [row(number % 300, "x" * 50, number) for number in range(20_000)]
    messages = [{"string": "device is in " + "standby " * 500}] * 500
    document = ata() | {"ata_smart_attributes": {"table": rows}}
    document["smartctl"] |= {"messages": messages}
    start = time.process_time()
    assert len(record_of(document).attributes) <= 255
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("device", "path"),
    [
        ({"type": "sat", "protocol": "ATA"}, "sata"),
        ({"type": "usbjmicron", "protocol": "ATA", "info_name": "/dev/sdc [USB JMicron]"}, "usb"),
        ({"type": "sntasmedia", "protocol": "NVMe"}, "usb"),
        ({"type": "sat+megaraid,1", "protocol": "ATA"}, "raid"),
        ({"type": "cciss,0", "protocol": "SCSI"}, "raid"),
        ({"type": "martian", "protocol": "MARS"}, ""),
    ],
)
def test_path_to_the_disk(device: dict[str, str], path: str) -> None:
    record = read_record(encoded(ata(device={"name": "/dev/sda"} | device)))
    assert record.path == path
    assert record.credible("pending") == 0


def test_volume_of_a_raid_controller_is_no_disk() -> None:
    volume = scsi(scsi_model_name="DELL PERC H730", smart_status={}, temperature={"current": 0})
    record = read_record(encoded(volume))
    assert record.path == "volume"
    assert record.credible("temperature") is None
    assert Follower().see(record).judgement.state == "unknown"


def test_sas_disk() -> None:
    record = read_record(encoded(scsi(scsi_grown_defect_list=3)))
    assert (record.path, record.kind, record.wwn) == ("sas", "hdd", "5000c50012345678")
    assert record.facts == {
        "hours": 2000,
        "temperature": 33,
        "grown_defects": 3,
        "reported_uncorrectable": 0,
        "bytes_written": 20_250_000_000,
    }


def test_failed_open_is_a_disk_of_which_nothing_is_known() -> None:
    record = record_of({"smartctl": {
        "version": [7, 3], "argv": ["smartctl", "--json", "/dev/sdz"], "exit_status": 2,
        "messages": [{"string": "Smartctl open device: /dev/sdz failed: No such device"}],
    }})  # fmt: skip
    followed = Follower().see(record)
    assert (followed.disk, followed.judgement.state) == ("/dev/sdz", "unknown")
    assert "No such device" in followed.judgement.remarks[0]


def test_output_without_its_tool_is_read_and_other_objects_are_not() -> None:
    document = ata()
    del document["smartctl"]
    assert record_of(document).exit_bits is None
    with pytest.raises(SmartError):
        record_of({"device": {"name": "/dev/sda"}})


def test_disk_that_tells_no_rotation() -> None:
    spins = (row(7, "Seek_Error_Rate", 0), row(10, "Spin_Retry_Count", 0))
    assert record_of(ata(*spins, rotation_rate=None)).kind == "hdd"
    assert record_of(ata(rotation_rate=None)).kind == ""
