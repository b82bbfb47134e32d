# SPDX-License-Identifier: Apache-2.0
"""Accounts of a block driver, held against fio's own and against what the driver was told to do."""

from __future__ import annotations

import pytest
from disks import fio, served
from driver.accounts import FEATURES, accounts, totals

from kmind.abi.btf import Btf
from kmind.driver.agents import ready_agent

KERNEL = pytest.mark.kernel("libbpf", "bpf_timer", "syscall", "tp_btf")
LOAD = ("--ioengine=libaio", "--iodepth=32", "--norandommap", "--randrepeat=0")


def test_features_stand_in_the_order_of_the_manifest() -> None:
    object_, _ = ready_agent("block")
    columns = Btf.from_elf(object_).enums["block_feature"]
    assert columns == {f"BLOCK_{f.name.upper()}": n for n, f in enumerate(FEATURES)}


@KERNEL
@pytest.mark.needs("fio")
@pytest.mark.usefixtures("each_shape")
@pytest.mark.parametrize("turn", range(3))
def test_counts_are_fios_to_the_last_one(turn: int) -> None:
    with served() as disk, accounts(disk.connection.number) as counted:
        before = counted.settled()
        words = ("--rw=randrw", "--bsrange=4k-64k", "--size=64m", "--io_size=200m")
        said = totals(fio(disk.path, *LOAD, *words))
        found = counted.settled(before)
        assert min(said["reads"], said["writes"]) > 1000
        assert {name: found[name] for name in said} == said
        assert found["untimed"] == found["withdrawn"] == found["replays"] == found["no_room"] == 0
        for operation in ("read", "write"):
            requests = found[f"{operation}s"]
            assert counted.histogram(operation, requests).sum() == requests
