# SPDX-License-Identifier: Apache-2.0
"""Servers killed with kill -9 under load, and others that go on in their place.

KMIND_KILLS=50 sets how often.
"""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from disks import MIB, Process, by, memory, require_devices, served, watched

from kmind.driver.disk import LoopDisk
from kmind.driver.holders import connection_is_held
from kmind.driver.loop import sweep

pytestmark = [pytest.mark.kernel(), pytest.mark.fault]

KILLS = int(os.environ.get("KMIND_KILLS", "6"))
SIZE = 32 * MIB


def server_of(disk: LoopDisk) -> Process:
    """The child that serves a disk."""
    server = disk._server
    assert isinstance(server, Process)
    return server


@pytest.mark.needs("fio")
def test_no_request_fails_and_no_block_is_wrong_after_kills() -> None:
    seeded = random.Random(7)
    kills = 0
    with served("Ram", SIZE, seconds=60 + KILLS * 3, max_io=256 << 10) as disk:
        statistics = Path(f"/sys/block/{disk.path.name}/stat")
        while kills < KILLS:
            load = subprocess.Popen(
                ["fio", "--name=t", f"--filename={disk.path}", "--rw=randwrite", "--size=24m",
                 "--bsrange=4k-64k", "--iodepth=32", "--ioengine=libaio", "--direct=1",
                 "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0"],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            try:
                while kills < KILLS:
                    end = completed(statistics) + seeded.randrange(1, 400)
                    while completed(statistics) < end and load.poll() is None:
                        time.sleep(0.0005)
                    if load.poll() is not None:
                        break
                    os.kill(server_of(disk).pid, signal.SIGKILL)
                    disk.replace()
                    kills += 1
                _, errors = load.communicate(timeout=60)
            finally:
                load.kill()
                load.wait()
            # Each block was read back and compared, and no request failed.
            assert load.returncode == 0, errors
            assert not errors


def completed(statistics: Path) -> int:
    """Reads and writes that the device has completed."""
    fields = statistics.read_text().split()
    return int(fields[0]) + int(fields[4])


def test_what_was_in_flight_comes_again_and_is_marked() -> None:
    require_devices()
    with memory() as memfd, watched(LoopDisk("test", by("Silent", SIZE, memfd))) as disk:
        command = ["dd", f"if={disk.path}", "of=/dev/null", "bs=4k", "iflag=direct", "count=1"]
        client = subprocess.Popen([*command, "skip=256"], stderr=subprocess.DEVNULL)
        silent = server_of(disk)
        while silent.line() != "silent":
            assert client.poll() is None
        disk.replace(by("Replayed", SIZE, memfd))
        said = server_of(disk)
        assert client.wait(20) == 0
        assert [said.line(), said.line()] == ["ready", "replayed [True]"]


def test_after_the_death_of_all_a_sweep_frees_the_device(tmp_path: Path) -> None:
    require_devices()
    script = tmp_path / "owner.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})
        from kmind.driver.disk import LoopDisk, ThreadServer
        from rams import opened_ram
        with LoopDisk("test", lambda c: ThreadServer(opened_ram(8 << 20), c)) as disk:
            print(disk.path, disk.connection.number, flush=True)
            time.sleep(1000)
        """)
    )
    owner = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout
        device, number = owner.stdout.readline().split()
        assert connection_is_held(int(number))
        assert Path(device).name not in sweep()  # it is alive
    finally:
        owner.kill()
        owner.communicate()
    backing = Path(f"/sys/block/{Path(device).name}/loop")
    assert backing.exists()
    with Path(device).open("rb", buffering=0) as file, pytest.raises(OSError, match="error"):
        file.read(4096)  # no caller waits
    assert Path(device).name in sweep()
    assert not backing.exists()


def test_a_server_that_outlives_its_owner_goes_on_and_is_not_swept(tmp_path: Path) -> None:
    require_devices()
    script = tmp_path / "owner.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})
        from disks import MIB, by, memory
        from kmind.driver.disk import LoopDisk
        with memory() as memfd, LoopDisk("test", by("Ram", 8 * MIB, memfd)) as disk:
            print(disk.path, disk._server.pid, flush=True)
            time.sleep(1000)
        """)
    )
    owner = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout
    device, server = owner.stdout.readline().split()
    try:
        owner.kill()
        owner.wait()
        assert Path(device).name not in sweep()
        with Path(device).open("rb", buffering=0) as file:
            assert file.read(4096) == bytes(4096)
    finally:
        os.kill(int(server), signal.SIGKILL)
        owner.stdout.close()
    backing = Path(f"/sys/block/{Path(device).name}/loop")
    while backing.exists():  # until the last descriptor of the server is closed
        sweep()
