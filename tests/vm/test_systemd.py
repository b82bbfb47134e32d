# SPDX-License-Identifier: Apache-2.0
"""The daemon as a service of systemd: in a guest, where systemd_script.py tries it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from vm.guest import run_in_guest

pytestmark = [pytest.mark.guest(systemd=True), pytest.mark.slow, pytest.mark.timeout(1500)]

SCRIPT = Path(__file__).with_name("systemd_script.py")
BASE = 128  # kB, and the value before


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("guest")
    lsm = "landlock,lockdown,yama"
    return run_in_guest(folder, SCRIPT, lsm=lsm, seconds=1200, systemd=True)


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
