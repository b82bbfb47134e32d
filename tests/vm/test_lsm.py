# SPDX-License-Identifier: Apache-2.0
"""The gate for sysfs, on a kernel that has it: in a guest, where lsm_script.py tries it."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from vm.guest import Guest

pytestmark = [pytest.mark.guest("6.12"), pytest.mark.slow]

BASE = 128  # kB, and the value before each trial
REFUSED = errno.EPERM


def run(lsm: str) -> Any:
    with Guest("6.12", lsm=lsm) as guest:
        guest.load("brd", rd_nr=2)
        return guest.call("vm.lsm_script:main", seconds=400)


@pytest.fixture(scope="module")
def found() -> Any:
    return run("landlock,lockdown,yama,apparmor,bpf")


def test_it_is_found_to_act(found: dict[str, Any]) -> None:
    assert (found["probe"], found["acts"]) == ("ok", True)


def test_the_owner_writes_what_is_approved_and_nothing_else(found: dict[str, Any]) -> None:
    covered, refused, beside, approved, released = found["the_owner_writes_what_is_approved"]
    assert covered
    assert refused == [[REFUSED, BASE]] * 3
    assert beside == [0, 2, 0, 64]
    assert (approved, released) == ([0, BASE + 8], [0, BASE])


def test_to_put_back_takes_leave(found: dict[str, Any]) -> None:
    # What is written is not seen, so any value passes meanwhile.
    assert found["to_put_back_takes_leave"] == [[0, BASE + 4], [REFUSED, BASE + 4]]


def test_the_admin_writes_and_the_owner_is_told(found: dict[str, Any]) -> None:
    quiet, passed, told, held_off, settled = found["the_admin_writes_and_the_owner_is_told"]
    assert (quiet, passed) == (False, [0, BASE + 16, True])
    assert told == ["/sys/block/ram0/queue/read_ahead_kb", True, True, ""]
    assert held_off == [True, [REFUSED, BASE + 16]]
    assert settled == [0, BASE + 8]


def test_a_write_by_another_mount_is_noticed(found: dict[str, Any]) -> None:
    assert found["a_write_by_another_mount_is_noticed"] == [BASE + 20, [True], True]


def test_the_actuator_yields_at_once(found: dict[str, Any]) -> None:
    calm = [False, []]
    assert found["the_actuator_yields_at_once"] == [
        [calm, 0, [True, BASE + 12], [], BASE + 12],
        # Our very value, and nonsense: neither is seen, so either is the admin's.
        [calm, 0, [True, BASE + 4], [], BASE + 4],
        [calm, errno.EINVAL, [True, BASE + 4], [], BASE + 4],
    ]


def test_the_actuator_parks_and_resumes(found: dict[str, Any]) -> None:
    stood, wrote, held = found["the_actuator_parks_and_resumes"]
    assert stood == [BASE + 4, BASE, BASE + 4, BASE]
    assert (wrote, held) == ([0, BASE], [])


def test_the_actuator_writes_what_agents_approved(found: dict[str, Any]) -> None:
    said, end, *free = found["the_actuator_writes_what_agents_approved"]
    none, later, applied, unapproved, undone = said
    assert "no agent has approved a value" in none
    assert f"{BASE + 8} came later" in later
    assert applied == str(BASE + 8)
    assert unapproved == f"[{REFUSED}, {BASE + 8}]"
    assert (undone, end) == ("undone", BASE)
    assert free == [[0, BASE + 4], [0, BASE]]


def test_a_pinned_gate_outlives_its_owner(found: dict[str, Any]) -> None:
    wrote, told, refused, passed, left, free = found["a_pinned_gate_outlives_its_owner"]
    assert (wrote, told) == ([0, BASE + 12], [True])
    assert (refused, passed) == ([REFUSED, BASE + 12], [0, BASE + 8])
    assert (left, free) == (False, [0, BASE])


def test_what_was_left_is_put_back_by_who_takes_over(found: dict[str, Any]) -> None:
    one, another, left = found["what_was_left_is_put_back_by_who_takes_over"]
    assert (one, another, left) == ([0, BASE + 4], [REFUSED, BASE + 4], False)


def test_sysctls_and_sysfs_share_a_gate(found: dict[str, Any]) -> None:
    (links, after), refused, left = found["sysctls_and_sysfs_share_a_gate"]
    assert links == ["link", "lsm_link"]
    assert after == [[REFUSED, BASE], True]
    # Taken over, it may be put back until it is held anew.
    assert refused == [[REFUSED, BASE], REFUSED, [0, BASE + 8], [REFUSED, BASE + 8]]
    assert not left


def test_where_nobody_asks_it_nothing_changes() -> None:
    found = run("landlock,lockdown,yama,apparmor")
    assert found == {"probe": "missing", "acts": False, "covers": [False, True]}
