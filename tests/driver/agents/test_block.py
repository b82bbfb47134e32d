# SPDX-License-Identifier: Apache-2.0
"""Accounts of a block driver, held against fio's own and against what the driver was told to do."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from disks import MIB, fio, served
from driver.accounts import (
    FEATURES,
    Held,
    accounts,
    held_disk,
    load_agent,
    shown,
    totals,
    tracepoints,
    until,
    waiting_reads,
)
from driver.agents.conftest import Pinned

from kmind.abi.btf import Btf
from kmind.driver.agents import ready_agent
from kmind.driver.disk import ThreadServer
from kmind.queue import Doorbell, Endpoint

KERNEL = pytest.mark.kernel("libbpf", "bpf_timer", "syscall", "tp_fuse")
PINNED = pytest.mark.kernel("libbpf", "bpffs", "bpf_timer", "syscall", "tp_fuse")
LOAD = ("--ioengine=libaio", "--iodepth=32", "--norandommap", "--randrepeat=0")


def test_features_stand_in_the_order_of_the_manifest() -> None:
    object_, _ = ready_agent("block")
    columns = Btf.from_elf(object_).enums["block_feature"]
    assert columns == {f"BLOCK_{f.name.upper()}": n for n, f in enumerate(FEATURES)}


@pytest.mark.kernel("libbpf", "bpf_timer", "syscall", "tp_btf")
def test_a_kernel_without_the_tracepoints_runs_it_and_says_what_is_lost() -> None:
    absent = dict.fromkeys(tracepoints(), "fuse_request_nowhere")
    with held_disk(Held()) as disk:
        agent = load_agent(disk.connection.number, stall_ms=1, hooks=absent)
        try:
            agent.start()
            assert agent.hooks.missing() == dict.fromkeys(
                tracepoints(), "this kernel has no tracepoint fuse_request_nowhere"
            )
            assert read(disk.path, 0)
            assert agent.feature(0) == 0
        finally:
            agent.close()


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


@KERNEL
@pytest.mark.needs("fio")
def test_discards_and_flushes_are_counted() -> None:
    with held_disk(Held()) as disk, accounts(disk.connection.number) as counted:
        before = counted.settled()
        words = ("--rw=randtrim", "--bs=64k", "--size=16m", "--number_ios=50", "--ioengine=libaio")
        said = totals(fio(disk.path, *words))
        found = counted.settled(before)
        assert said["discards"] == 50
        assert {name: found[name] for name in said} == said
        descriptor = os.open(disk.path, os.O_WRONLY)
        os.pwrite(descriptor, bytes(4096), 0)
        os.fsync(descriptor)
        os.close(descriptor)
        assert counted.settled(found)["flushes"] >= 1


def read(path: Path, block: int) -> bool:
    """Read a block past the page cache; False if that fails."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 4096) as buffer:
            return os.preadv(descriptor, [buffer], block * 4096) == 4096
    except OSError:
        return False
    finally:
        os.close(descriptor)


@KERNEL
def test_errors_are_those_that_the_driver_gave() -> None:
    driver = Held()
    with held_disk(driver) as disk, accounts(disk.connection.number) as counted:
        before = counted.settled()
        wanted = [bool(n % 3) for n in range(90)]
        for block, good in enumerate(wanted):
            driver.errno = 0 if good else errno.ENOSPC
            assert read(disk.path, block) == good
        driver.errno = 0
        found = counted.settled(before)
        assert found["reads"] == len(wanted)
        assert found["read_errors"] == wanted.count(False)
        assert found["read_bytes"] == wanted.count(True) * 4096
        assert found["write_errors"] == found["flush_errors"] == 0


@KERNEL
def test_times_are_the_drivers_own() -> None:
    driver = Held(seconds=0.02)
    with held_disk(driver) as disk, accounts(disk.connection.number) as counted:
        before = counted.settled()
        began = time.monotonic_ns()
        for block in range(20):
            assert read(disk.path, block)
        took = time.monotonic_ns() - began
        found = counted.settled(before)
        assert 20 * 20_000_000 <= found["read_ns"] <= took
        buckets = counted.histogram("read", found["reads"])
        # The first is up to 2^10 ns; 20 ms lie between 2^24 and 2^25.
        assert buckets[: 24 - 10 + 1].sum() == 0
        assert buckets[24 - 10 + 1 :].sum() == 20
        longest = int(np.flatnonzero(buckets)[-1])
        assert 2 ** (longest + 9) <= took


@PINNED
def test_what_waits_is_shown_and_how_long_with_its_owner_gone(pinned: Pinned) -> None:
    driver = Held()
    with held_disk(driver) as disk:
        agent, pin = pinned(disk.connection.number)
        until(lambda: shown(pin)["in_flight"] == 0)
        driver.hold = True
        began = time.monotonic_ns()
        with waiting_reads(disk.path, 5):
            until(lambda: shown(pin)["in_flight"] == 5)
            agent.release()  # as if its owner had been killed
            until(lambda: shown(pin)["oldest_us"] >= 100_000)
            assert shown(pin)["oldest_us"] <= (time.monotonic_ns() - began) // 1000
            reads = shown(pin)["read_requests"]
            driver.release()
        until(lambda: shown(pin)["in_flight"] == 0)
        assert shown(pin)["read_requests"] == reads + 5
        assert shown(pin)["oldest_us"] == 0
        timed = sum(n for name, n in shown(pin).items() if name.startswith("read_within_ns_"))
        assert timed <= shown(pin)["read_requests"]


@KERNEL
def test_windows_have_what_waits_and_how_long() -> None:
    driver = Held()
    with held_disk(driver) as disk, accounts(disk.connection.number) as counted:
        windows = Endpoint(counted.agent.arena, Doorbell(counted.agent.doorbell_fd)).windows
        before = counted.settled()

        def any_window(is_it: Callable[[dict[str, int]], bool]) -> bool:
            batch = windows.peek()
            rows = batch["value"].tolist()
            windows.release(len(batch))
            names = [feature.name for feature in FEATURES]
            return any(is_it(dict(zip(names, row, strict=False))) for row in rows)

        driver.hold = True
        began = time.monotonic_ns()
        with waiting_reads(disk.path, 3):
            until(lambda: counted["sent"] - before["sent"] == 3)
            # One with no counter moved is closed after two seconds.
            old = 1_000_000
            until(lambda: any_window(lambda w: w["in_flight"] == 3 and w["oldest_us"] > old))
            assert (time.monotonic_ns() - began) // 1000 > old
            driver.release()
        until(lambda: any_window(lambda w: w["reads"] == 3 and w["in_flight"] == 0))


@KERNEL
def test_replays_are_counted_once_each() -> None:
    driver = Held()
    with held_disk(driver) as disk, accounts(disk.connection.number) as counted:
        before = counted.settled()
        driver.hold = True
        with waiting_reads(disk.path, 7):
            until(lambda: counted["sent"] - before["sent"] >= 7)
            until(lambda: sum(map(len, driver.kept)) >= 7)
            other = Held()
            disk.replace(lambda connection: ThreadServer(other, connection))
        found = counted.settled(before)
        assert (found["reads"], found["replays"], found["read_errors"]) == (7, 7, 0)
        assert found["untimed"] == 0


@KERNEL
def test_a_request_that_is_answered_twice_counts_once() -> None:
    class Twice(Held):
        def serve(self, batch: object) -> None:
            super().serve(batch)  # type: ignore[arg-type]
            # By hand, past all checks: answers to all that may have been asked lately.
            for unique in range(2, 4000, 2):
                with pytest.raises(OSError, match="No such file"):
                    os.write(self.descriptor, struct.pack("<IiQ", 16, -errno.EIO, unique))

        descriptor = -1

    driver = Twice()
    with held_disk(driver) as disk, accounts(disk.connection.number) as counted:
        driver.descriptor = disk.connection.descriptor
        before = counted.settled()
        for block in range(10):
            assert read(disk.path, block)
        found = counted.settled(before)
        assert (found["reads"], found["read_errors"], found["untimed"]) == (10, 0, 0)


@PINNED
def test_requests_of_an_aborted_connection_are_errors_and_none_waits(pinned: Pinned) -> None:
    driver = Held()
    with held_disk(driver) as disk:
        _, pin = pinned(disk.connection.number)
        driver.hold = True
        before = shown(pin)
        with waiting_reads(disk.path, 6):
            until(lambda: shown(pin)["in_flight"] == 6)
            disk.connection.abort()
        until(lambda: shown(pin)["in_flight"] == 0)
        after = shown(pin)
        assert after["read_errors"] - before["read_errors"] == 6
        assert after["read_bytes"] == before["read_bytes"]
        assert after["oldest_us"] == 0
        disk.close(force=True)


@KERNEL
@pytest.mark.needs("fio")
def test_thousands_in_flight_are_counted_and_those_without_room_too() -> None:
    most = 9000  # there is room to time 8,192
    driver = Held(64 * MIB)
    with (
        held_disk(driver, depth=most, max_io=8192) as disk,
        accounts(disk.connection.number) as counted,
    ):
        before = counted.settled()
        driver.hold = True
        command = ["fio", "--name=t", f"--filename={disk.file}", "--direct=1", "--rw=randread",
                   "--bs=4k", "--size=64m", f"--number_ios={most}", "--ioengine=libaio",
                   f"--iodepth={most}", "--norandommap", "--output-format=json"]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as load:
            until(lambda: counted["sent"] - before["sent"] >= most or load.poll() is not None)
            assert counted["no_room"] >= most - 8192
            driver.release()
            assert load.wait(60) == 0
        found = counted.settled(before)
        assert found["reads"] == most
        assert found["read_bytes"] == most * 4096
        assert found["untimed"] == found["no_room"]
        assert counted.histogram("read", most - found["untimed"]).sum() == most - found["untimed"]


@KERNEL
def test_another_connection_is_not_counted() -> None:
    with (
        held_disk(Held()) as disk,
        held_disk(Held()) as other,
        accounts(disk.connection.number) as counted,
    ):
        before = counted.settled()
        for block in range(50):
            assert read(other.path, block)
        assert not any(counted.settled(before).values())
        assert read(disk.path, 0)
        assert counted.settled(before)["reads"] == 1


@PINNED
def test_a_request_whose_client_was_killed_before_it_was_read_does_not_wait_on(
    pinned: Pinned,
) -> None:
    with held_disk(Held()) as disk:
        _, pin = pinned(disk.connection.number)
        script = (
            "import os, sys\n"
            "file = os.open(sys.argv[1], os.O_RDWR)\n"
            "print('open', flush=True)\n"
            "sys.stdin.readline()\n"
            "os.fsync(file)\n"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", script, disk.file],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert child.stdin
            assert child.stdout
            assert child.stdout.readline() == "open\n"
            disk._end_server()  # nobody reads its requests now
            before = shown(pin)
            child.stdin.write("\n")
            child.stdin.flush()
            until(lambda: shown(pin)["in_flight"] > before["in_flight"])
        finally:
            child.send_signal(signal.SIGKILL)
            child.communicate()
        until(lambda: shown(pin)["withdrawn"] == before["withdrawn"] + 1)
        disk._serve()
        until(lambda: shown(pin)["in_flight"] == 0)
        assert shown(pin)["oldest_us"] == 0
