# SPDX-License-Identifier: Apache-2.0
"""The daemon as a service of systemd: in a guest, where systemd_script.py tries it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from vm.guest import Guest

pytestmark = [pytest.mark.guest("6.12"), pytest.mark.slow, pytest.mark.timeout(1500)]

UNIT = Path(__file__).resolve().parents[2] / "src/kmind/serve/kmind.service"
BASE = 128  # kB, and the value before


@pytest.fixture(scope="module")
def found() -> Any:
    with Guest("6.12", systemd=True, seconds=1200) as guest:
        guest.load("brd", rd_nr=2)
        guest.write("/etc/systemd/system/kmind.service", UNIT.read_bytes())
        return guest.call("vm.systemd_script:main", seconds=1200)


def test_it_starts(found: dict[str, Any]) -> None:
    assert found["it_starts"] == ["active", "serving", "0"]


def test_extensions_are_confined(found: dict[str, Any]) -> None:
    stood, cgroup, capabilities, seccomp, no_new, other, limits = found["it_loads_a_module"]
    assert (stood, cgroup) == (BASE, "/kmind/static@ram0")
    assert (int(capabilities, 16), seccomp, no_new, other) == (0, "2", "1", True)
    assert all(word.isdigit() for word in limits)


def test_its_log_is_in_the_journal(found: dict[str, Any]) -> None:
    events, whole = found["its_log_is_in_the_journal"]
    assert {"start", "verdict", "applied", "log"} <= set(events)
    assert whole


def test_killed_it_is_started_again_and_takes_over(found: dict[str, Any]) -> None:
    assert found["it_is_killed"] == ["1", True, True]


def test_hanging_it_is_killed_by_the_watchdog(found: dict[str, Any]) -> None:
    assert found["it_hangs"] == ["2", True, True]


def test_restarted_hot_it_is_the_same_process(found: dict[str, Any]) -> None:
    assert found["it_is_restarted_hot"] == [True, "2", True, True]


def test_reloaded_it_goes_on(found: dict[str, Any]) -> None:
    assert found["it_reads_its_policy_again"] == ["serving", True]


def test_stopped_it_leaves_nothing(found: dict[str, Any]) -> None:
    assert found["it_stops"] == ["inactive", "success", BASE, False, []]
