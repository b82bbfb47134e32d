# SPDX-License-Identifier: Apache-2.0
"""NVMe hardware driven from Python: in guests, with an emulated controller behind an IOMMU."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from vm.guest import KERNELS, Disk, Guest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ADDRESS = "0000:00:10.0"  # the first extra disk
SHARED = "0000:00:1f.2"  # a function that has neighbours in its IOMMU group
MIB = int(os.environ.get("KMIND_NVME_MIB", "16"))
KILLS = int(os.environ.get("KMIND_KILLS", "6"))


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.guest(name)) for name in KERNELS]
)
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    disks = [Disk("nvme", max(64, MIB))]
    with Guest(request.param, disks=disks, iommu=True, seconds=4000) as booted:
        yield booted


def test_what_one_driver_writes_the_other_reads(guest: Guest) -> None:
    found = guest.call("vm.nvme_script:copy", ADDRESS, MIB, seconds=3600)
    assert found["before"] == found["after"] == "nvme"
    assert found["size"] == max(64, MIB) << 20
    assert found["written"] == found["read"] == found["by_kernel"]
    assert found["said"] == []
    for driver, word in (("ours", ""), ("the kernel's", "kernel_")):
        speeds = [MIB / found[f"{word}{what}_s"] for what in ("write", "read")]
        print("{}: writes {:.0f} MiB/s, reads {:.0f}".format(driver, *speeds))


def test_a_killed_driver_loses_nothing(guest: Guest) -> None:
    replays = guest.kernel.name != "6.1"  # since Linux 6.9
    found = guest.call("vm.nvme_script:kills", ADDRESS, KILLS, replays, seconds=3600)
    assert found["failed"] == []
    assert found["wrong"] == 0
    assert found["written"] > 5 * KILLS // 2
    assert found["faults"] == 0
    assert found["driver"] == "nvme"


def test_what_reaches_beyond_its_window_is_refused_and_counted(guest: Guest) -> None:
    found = guest.call("vm.nvme_script:hostile", ADDRESS)
    assert found["before"] == 0
    assert found["counted"] >= 1
    assert found["driver"] == "nvme"


def test_a_function_with_neighbours_is_not_taken(guest: Guest) -> None:
    (said,) = guest.call("vm.nvme_script:refused", SHARED)
    assert "shares its IOMMU group with 0000:00:1f.3" in said


@pytest.mark.guest("6.12")
def test_without_an_iommu_nothing_is_taken() -> None:
    with Guest("6.12", disks=[Disk("nvme", 64)]) as guest:
        (said,) = guest.call("vm.nvme_script:refused", ADDRESS)
        assert f"no IOMMU confines {ADDRESS}" in said
