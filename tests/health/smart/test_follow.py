# SPDX-License-Identifier: Apache-2.0
"""Alerts over many readings: each fact once, growth, and nothing twice."""

from typing import Any

from health.smart.samples import asleep, ata, encoded, row

from kmind.health.smart.follow import GROWN, Follower
from kmind.health.smart.record import read_record


def told(*documents: dict[str, Any]) -> list[str]:
    follower = Follower()
    return [follower.see(read_record(encoded(each))).alert for each in documents]


def pending(count: int, **changes: Any) -> dict[str, Any]:
    return ata(row(197, "Current_Pending_Sector", count), **changes)


def crc(count: int) -> dict[str, Any]:
    return ata(row(199, "UDMA_CRC_Error_Count", count))


def test_same_fact_is_told_once() -> None:
    assert [bool(text) for text in told(*[pending(1)] * 30)] == [True, *[False] * 29]


def test_growth_is_told_when_it_has_doubled() -> None:
    alerts = told(*(pending(count) for count in range(1, 31)))
    assert [day for day, text in enumerate(alerts, 1) if text] == [1, 2, 4, 8, 16]
    assert alerts[15] == "sectors cannot be read: 16"


def test_a_count_that_comes_and_goes_is_told_once() -> None:
    assert sum(map(bool, told(*[pending(8), pending(0)] * 10))) == 1


def test_a_verdict_that_flaps_is_told_once() -> None:
    failed = ata(smart_status={"passed": False})
    assert sum(map(bool, told(*[failed, ata()] * 10))) == 1


def test_getting_worse_is_told() -> None:
    alerts = told(pending(1), pending(1, smart_status={"passed": False}))
    assert all(alerts)
    assert "is failing" in alerts[1]
    assert "sectors" not in alerts[1]


def test_sleep_between_two_readings_changes_nothing() -> None:
    assert [bool(text) for text in told(pending(1), asleep(), pending(1))] == [True, False, False]


def test_link_errors_of_old_are_no_alarm_and_new_ones_are() -> None:
    follower = Follower()
    states = []
    alerts = []
    for count in (3000, 3000, 3000 + GROWN - 1, 3000 + GROWN, 3000 + GROWN):
        seen = follower.see(read_record(encoded(crc(count))))
        states.append(seen.judgement.state)
        alerts.append(bool(seen.alert))
    assert states == ["ok", "ok", "ok", "watch", "watch"]
    assert alerts == [False, False, False, True, False]


def test_link_counter_that_begins_anew() -> None:
    assert not any(told(crc(3000), crc(0), crc(GROWN - 1)))
    assert told(crc(3000), crc(0), crc(GROWN))[-1]


def test_disk_swapped_under_the_same_name_is_told_of_itself() -> None:
    assert all(told(pending(1), pending(1, serial_number="WD-2", wwn=None)))


def test_clock_of_the_host_may_jump() -> None:
    times = (10**9, 0, 2**62, 5)
    assert sum(map(bool, told(*(pending(1, local_time={"time_t": at}) for at in times)))) == 1
