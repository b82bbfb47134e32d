# SPDX-License-Identifier: Apache-2.0
"""Disks that change names, share serial numbers, have none, or sleep."""

from typing import Any

import pytest
from health.smart.samples import asleep, ata, nvme

from kmind.health.smart.identity import Identities
from kmind.health.smart.record import record_of


def disk(name: str = "/dev/sda", **changes: Any) -> dict[str, Any]:
    return ata(device={"name": name, "type": "sat", "protocol": "ATA"}) | changes


def names(*documents: dict[str, Any]) -> list[str]:
    identities = Identities()
    return [identities.name(record_of(each)) for each in documents]


def test_disk_keeps_its_name_under_another_device() -> None:
    first, second = names(disk("/dev/sda"), disk("/dev/sdb"))
    assert first == second == "WDC_WD40EFRX_WD-1"


def test_sleeping_disk_is_the_one_last_seen_there() -> None:
    first, *rest = names(disk(), asleep(), disk("/dev/sdb", serial_number="WD-2"), asleep())
    assert rest == [first, "WDC_WD40EFRX_WD-2", first]


def test_disk_swapped_under_the_same_name() -> None:
    first, second, sleeping = names(disk(), disk(serial_number="WD-2"), asleep())
    assert first != second == sleeping


def test_equal_serial_numbers_with_other_world_wide_names() -> None:
    other = {"naa": 5, "oui": 5358, "id": 78}
    first, second, again = names(disk(), disk("/dev/sdb", wwn=other), disk("/dev/sdc", wwn=other))
    assert first != second == again


def test_equal_world_wide_names_with_other_serial_numbers() -> None:
    assert len(set(names(disk(), disk(serial_number="WD-2")))) == 2


def test_record_without_a_world_wide_name_is_of_the_same_disk() -> None:
    assert len(set(names(disk(), disk(wwn=None)))) == 1


@pytest.mark.parametrize(
    "serial", ["", None, 7, "0000000000", "0123456789ABCDEF", "REDACTED", "unknown", "   "]
)
def test_serial_number_that_is_none(serial: Any) -> None:
    first, second = names(
        disk(serial_number=serial),
        disk("/dev/sdb", serial_number=serial, wwn={"naa": 5, "oui": 1, "id": 2}),
    )
    assert first != second
    first, second, again = names(
        disk(serial_number=serial, wwn=None),
        disk("/dev/sdb", serial_number=serial, wwn=None),
        disk(serial_number=serial, wwn=None),
    )
    assert first == again != second


def test_equal_serial_numbers_and_nothing_else_to_tell_them_apart() -> None:
    def at(name: str, time: int) -> dict[str, Any]:
        return disk(name, wwn=None, local_time={"time_t": time})

    # In one minute under two names, later each under its own again.
    day = 86_400
    first, second, *later = names(
        at("/dev/sda", day),
        at("/dev/sdb", day + 2),
        at("/dev/sda", 2 * day),
        at("/dev/sdb", 2 * day + 2),
    )
    assert first != second
    assert later == [first, second]
    # Days later under another name it is the same disk; so if no time is known.
    assert len(set(names(at("/dev/sda", day), at("/dev/sdb", 2 * day)))) == 1
    assert len(set(names(at("/dev/sda", 0), at("/dev/sdb", 0)))) == 1


def test_equal_serial_numbers_with_other_capacities() -> None:
    sizes = ({"bytes": 4 << 40}, {"bytes": 8 << 40})
    assert len(set(names(*(disk(wwn=None, user_capacity=size) for size in sizes)))) == 2


def test_namespaces_of_nvme_tell_disks_apart() -> None:
    def space(number: int) -> dict[str, Any]:
        return nvme(nvme_namespaces=[{"eui64": {"oui": 9528, "ext_id": number}}])

    assert len(set(names(space(5), space(6)))) == 2
    controller = disk("/dev/nvme0", wwn=None, local_time={"time_t": 5})
    namespace = disk("/dev/nvme0n1", wwn=None, local_time={"time_t": 6})
    assert len(set(names(controller, namespace))) == 1


def test_world_wide_name_that_was_hidden_is_none() -> None:
    hidden = {"naa": 5, "oui": 3152, "id": 1234567890}
    assert len(set(names(disk(serial_number="", wwn=hidden),
                         disk("/dev/sdb", serial_number="", wwn=hidden)))) == 2  # fmt: skip


def test_sleeping_member_of_a_raid_is_no_other_member() -> None:
    device = {"name": "/dev/bus/0", "type": "megaraid,1", "protocol": "ATA"}
    other = device | {"type": "megaraid,0"}
    first, second = names(ata(device=other), asleep() | {"device": device})
    assert first != second
    awake = [ata(device=other), ata(device=device, serial_number="WD-2")]
    first, second, *sleeping = names(
        *awake, asleep() | {"device": other}, asleep() | {"device": device}
    )
    assert sleeping == [first, second]


def test_members_of_a_raid_have_one_device_and_several_names() -> None:
    def member(number: int, **changes: Any) -> dict[str, Any]:
        device = {"name": "/dev/bus/0", "type": f"megaraid,{number}", "protocol": "ATA"}
        return ata(device=device, wwn=None) | changes

    assert len(set(names(member(0), member(1, serial_number="WD-2")))) == 2
    # Also those that tell no serial number.
    assert len(set(names(member(0, serial_number=""), member(1, serial_number="")))) == 2
