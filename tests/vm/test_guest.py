# SPDX-License-Identifier: Apache-2.0
"""Guests themselves: what a test can ask of one, and what it is told when one fails."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from vm.guest import KERNELS, Disk, Guest, GuestError

pytestmark = pytest.mark.slow

DISKS = [Disk("virtio", 48), Disk("nvme", 32), Disk("ahci", 24)]
# Debian's 6.1 for clouds has no AHCI.
WITHOUT_AHCI = DISKS[:2]
# A server on one card and a client on the other, which tells what it heard and over which device.
SERVER = (
    "import socket, sys\n"
    "server = socket.create_server((sys.argv[1], 99))\n"
    "print('up', flush=True)\n"
    "server.accept()[0].sendall(b'over the wire')\n"
)
CLIENT = "import socket, sys; print(socket.create_connection((sys.argv[1], 99), 60).recv(99))"


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.guest(name)) for name in KERNELS]
)
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    booted = Guest(request.param, nics=2)
    booted.disks = tuple(DISKS if booted.kernel.has("ahci") else WITHOUT_AHCI)
    with booted:
        yield booted


def test_it_runs_the_kernel_that_was_asked_for(guest: Guest) -> None:
    release = guest.run("uname", "-r", check=True).stdout.strip()
    assert release == guest.kernel.release
    assert guest.kernel.name in (*KERNELS[2:], ".".join(release.split(".")[:2]))
    assert f"Linux version {release}" in guest.kernel_log()


def test_a_command_has_its_input_and_tells_its_code(guest: Guest) -> None:
    script = 'read line; echo "$line $WORD in $PWD"; echo no >&2; exit 3'
    done = guest.run("sh", "-c", script, input=b"a\n", environment={"WORD": "b"}, cwd="/usr")
    assert (done.code, done.stdout, done.stderr) == (3, "a b in /usr\n", "no\n")
    with pytest.raises(GuestError, match=r"(?s)failed.*no.*last lines of its console"):
        guest.run("sh", "-c", "echo no >&2; exit 3", check=True)
    with pytest.raises(GuestError, match="No such file"):
        guest.run("/no/such/command")


def test_functions_are_called_there_and_what_they_raise_is_told(guest: Guest) -> None:
    assert guest.call("posixpath:join", "a", "b") == "a/b"
    with pytest.raises(GuestError, match="FileNotFoundError"):
        guest.call("os:stat", "/no/such")


def test_files_come_and_go_whole(guest: Guest) -> None:
    data = bytes(range(256)) * 2048  # 512 KiB
    guest.write("/srv/new/file", data)
    assert guest.read("/srv/new/file") == data
    with pytest.raises(GuestError, match="No such file"):
        guest.read("/srv/absent")


def test_the_project_is_there_as_its_wheel_has_it(guest: Guest) -> None:
    done = guest.run("kmind", "--version", check=True, seconds=300)
    assert done.stdout.startswith("kmind ")
    listed = guest.run("find", "/kmind/src", "-name", "*.bpf.o", check=True).stdout
    assert "/static.bpf.o" in listed
    assert "/static.array.bpf.o" in listed


def test_each_disk_is_there_with_its_size(guest: Guest) -> None:
    names = [guest.disk(number) for number in range(len(guest.disks))]
    assert [name[:2] for name in names] == ["vd", "nv", "sd"][: len(names)]
    for name, disk in zip(names, guest.disks, strict=True):
        assert int(guest.read(f"/sys/block/{name}/size")) == disk.mib << 11
        guest.run("mke2fs", "-qF", f"/dev/{name}", check=True)


@pytest.mark.parametrize(
    ("modules", "parameters", "appears"),
    [
        (["configfs", "null_blk"], {"nr_devices": 1}, "nullb0"),
        (["sd_mod", "scsi_debug"], {"dev_size_mb": 16}, "sd"),
        (["brd"], {"rd_nr": 1}, "ram0"),
        (["zram"], {}, "zram0"),
        (["loop"], {}, "loop0"),
    ],
    ids=["null_blk", "scsi_debug", "brd", "zram", "loop"],
)
def test_disks_of_modules_appear(
    guest: Guest, modules: list[str], parameters: dict[str, int], appears: str
) -> None:
    before = set(guest.run("ls", "/sys/block").stdout.split())
    for name in modules[:-1]:
        guest.load(name)
    guest.load(modules[-1], **parameters)
    guest.run("sleep", "1")  # scsi_debug scans on its own
    now = set(guest.run("ls", "/sys/block").stdout.split())
    assert any(name.startswith(appears) for name in now - before)


def test_device_mapper_delays_a_disk(guest: Guest) -> None:
    guest.load("dm_delay")
    table = f"0 32768 delay /dev/{guest.disk(0)} 0 5"
    guest.run("dmsetup", "create", "slow", "--table", table, check=True)
    guest.run("dmsetup", "remove", "--retry", "slow", check=True)


def test_its_cards_reach_each_other_and_nothing_else(guest: Guest) -> None:
    here, peer = guest.connect()
    script = (
        'exec 3<&0; ip netns exec peer python3 -c "$SERVER" $1 >/run/up & '
        'until grep -q up /run/up 2>/dev/null; do sleep 0.2; done; python3 -c "$CLIENT" $1; wait'
    )
    code = {"SERVER": SERVER, "CLIENT": CLIENT}
    done = guest.run("sh", "-c", script, "sh", peer, environment=code, check=True)
    assert done.stdout == "b'over the wire'\n"
    assert int(guest.read(f"/sys/class/net/{guest.nic(0)}/statistics/rx_bytes")) > 0
    routes = guest.run("ip", "route", check=True).stdout
    assert "default" not in routes
    assert here in routes


def test_a_command_that_takes_too_long_is_killed_and_the_guest_stays(guest: Guest) -> None:
    with pytest.raises(GuestError, match=r"(?s)sleep 321 took more than 2 s.*console"):
        guest.run("sleep", "321", seconds=2)
    assert "sleep 321" not in guest.run("ps", "ax").stdout


def test_a_full_disk_is_told_and_the_guest_stays(guest: Guest) -> None:
    # All but the last 16 MiB are only reserved: it is quick, and takes no room outside.
    free = int(guest.run("df", "--output=avail", "/", check=True).stdout.split()[-1])
    guest.run("fallocate", "-l", f"{free - (16 << 10)}K", "/srv/most", check=True)
    done = guest.run("sh", "-c", "exec cat /dev/zero >/srv/rest", seconds=300)
    assert done.code == 1
    assert "No space left on device" in done.stderr
    assert guest.run("echo", "still here").stdout == "still here\n"
    guest.run("rm", "/srv/most", "/srv/rest", check=True)


@pytest.mark.guest("6.1")
def test_a_panic_is_told_with_the_last_lines() -> None:
    with Guest("6.1") as guest:
        guest.run("sh", "-c", "echo the line before >/dev/kmsg", check=True)
        with pytest.raises(GuestError, match=r"(?s)Kernel panic.*the line before.*sysrq"):
            guest.run("sh", "-c", "echo c >/proc/sysrq-trigger")


@pytest.mark.guest("6.1")
def test_one_without_an_init_is_told() -> None:
    guest = Guest("6.1", boot="init=/no/init")
    with pytest.raises(GuestError, match=r"(?s)Kernel panic.*/no/init"), guest:
        pass


@pytest.mark.guest("6.1")
def test_one_that_hangs_is_ended_and_told() -> None:
    with Guest("6.1") as guest:
        guest.run("sh", "-c", "echo the line before >/dev/kmsg", check=True)
        process = guest.process
        process.send_signal(signal.SIGSTOP)
        guest.grace_s = 1
        with pytest.raises(GuestError, match=r"(?s)hangs, true: no answer.*the line before"):
            guest.run("true", seconds=1)
        assert process.returncode == -signal.SIGKILL


@pytest.mark.guest("6.1")
def test_its_time_as_a_whole_is_limited() -> None:
    with Guest("6.1") as guest:
        guest.limit(3)
        with pytest.raises(GuestError, match="sleep 321 took more than"):
            guest.run("sleep", "321", seconds=400)


@pytest.mark.guest("6.1")
def test_what_was_written_is_there_after_a_restart() -> None:
    with Guest("6.1", disks=[Disk("virtio", 16)]) as guest:
        guest.write("/srv/kept", b"kept")
        guest.write(f"/dev/{guest.disk(0)}", b"on the disk")
        guest.shutdown()
        guest.start()
        assert guest.read("/srv/kept") == b"kept"
        assert guest.run("head", "-c", "11", f"/dev/{guest.disk(0)}").stdout == "on the disk"
