# SPDX-License-Identifier: Apache-2.0
"""Block devices by ublk: in guests, for the machine's own kernel may have no ublk."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator

import pytest
from vm.guest import Guest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

KERNELS = ("6.12", "newest")  # Debian's 6.1 has no module ublk_drv
KILLS = int(os.environ.get("KMIND_KILLS", "10"))


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.guest(name)) for name in KERNELS]
)
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    with Guest(request.param, seconds=3000) as booted:
        yield booted


def test_a_device_comes_is_used_and_goes(guest: Guest) -> None:
    found = guest.call("vm.ublk_script:life")
    assert found["state"] == "LIVE"
    assert found["size"] == 64 << 20
    assert found["zeroed"]
    assert found["written"] >= 20
    assert ["Input/output error" in each for each in found["errors"]] == [True]
    assert not found["there"]
    print(f"there after {found['made_s'] * 1000:.0f} ms, gone {found['ended_s'] * 1000:.0f} ms")


def test_killed_servers_lose_no_request(guest: Guest) -> None:
    found = guest.call("vm.ublk_script:kills", KILLS, seconds=2000)
    assert found["errors"] == []
    assert found["wrong"] == 0
    assert found["written"] >= 2 * KILLS
    assert found["state"] == "LIVE"
    stalls = found["stalls"]
    print(f"{len(stalls)} kills: median {statistics.median(stalls):.3f} s, most {max(stalls):.3f}")


def test_verified_writes_by_fio(guest: Guest) -> None:
    done = json.loads(guest.call("vm.ublk_script:fio", 5))
    assert [job["error"] for job in done["jobs"]] == [0]
    assert done["jobs"][0]["read"]["io_bytes"] == 32 << 20


def test_delays_and_errors_come_as_by_any_transport(guest: Guest) -> None:
    found = guest.call("vm.ublk_script:late", 20)
    assert found["late_s"] >= 0.02
    assert "Input/output error" in found["error"]


def test_a_driver_that_hangs_does_not_hold_up_its_owner(guest: Guest) -> None:
    found = guest.call("vm.ublk_script:hangs")
    assert found["ended_s"] < 30
    assert "Input/output error" in found["error"]


@pytest.mark.guest("6.1")
def test_without_the_module_it_is_refused() -> None:
    with Guest("6.1") as guest:
        assert "cannot open /dev/ublk-control" in guest.call("vm.ublk_script:refused")
