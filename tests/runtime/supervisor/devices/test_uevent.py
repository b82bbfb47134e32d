# SPDX-License-Identifier: Apache-2.0
"""Device events: what the kernel sends is heard and understood, and nobody else's is."""

import fcntl
import os
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_module import loop_disk

from kmind.extension import Manifest
from kmind.extension.discovery.conf import ModuleConf
from kmind.runtime.supervisor.devices.uevent import (
    Uevent,
    UeventListener,
    coldplug,
    match,
    parse_uevent,
    present,
)

ADD = (
    b"add@/devices/virtual/block/loop7\0ACTION=add\0DEVPATH=/devices/virtual/block/loop7\0"
    b"SUBSYSTEM=block\0DEVNAME=loop7\0DEVTYPE=disk\0SEQNUM=12\0"
)
LOOP_CTL_ADD, LOOP_CTL_REMOVE = 0x4C80, 0x4C81  # include/uapi/linux/loop.h


@pytest.fixture
def listener() -> Iterator[UeventListener]:
    with UeventListener() as each:
        yield each


def heard(listener: UeventListener, wanted: Callable[[Uevent], bool]) -> Uevent:
    """The first event of that kind; the kernel sends it before the cause returns."""
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        until = time.monotonic() + 10
        while selector.select(until - time.monotonic()):
            for event in listener.read():
                if wanted(event):
                    return event
    pytest.fail("the event was not heard")


def test_parse() -> None:
    event = parse_uevent(ADD)
    assert event is not None
    assert (event.action, event.subsystem, event.name) == ("add", "block", "loop7")
    assert event.properties["DEVTYPE"] == "disk"
    assert event.properties["SEQNUM"] == "12"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"libudev\0\xfe\xed\xca\xfe",
        b"add@/devices/x\0",
        ADD.replace(b"ACTION=add\0", b""),
        ADD.replace(b"SUBSYSTEM=block\0", b""),
        ADD.replace(b"\0DEVPATH=/devices/virtual/block/loop7", b""),
    ],
)
def test_parse_refuses(message: bytes) -> None:
    assert parse_uevent(message) is None


@given(st.binary(max_size=300))
def test_parse_takes_any_bytes(noise: bytes) -> None:
    parse_uevent(noise)
    assert parse_uevent(ADD + noise) is not None


@pytest.mark.kernel("root")
def test_a_synthetic_event_of_a_real_disk(listener: UeventListener, tmp_path: Path) -> None:
    with loop_disk(tmp_path) as disk:
        Path(f"/sys/block/{disk}/uevent").write_text("change")
        event = heard(listener, lambda e: e.name == disk and "SYNTH_UUID" in e.properties)
    assert (event.action, event.subsystem) == ("change", "block")
    assert event.properties["DEVNAME"] == disk
    assert (listener.lost, listener.ignored) == (0, 0)


@pytest.mark.kernel("root")
def test_a_disk_that_comes_and_goes(listener: UeventListener) -> None:
    control = os.open("/dev/loop-control", os.O_RDWR)
    number = 77
    try:
        fcntl.ioctl(control, LOOP_CTL_ADD, number)
        try:
            event = heard(listener, lambda e: e.name == f"loop{number}" and e.subsystem == "block")
            assert event.action == "add"
            assert event.properties["DEVTYPE"] == "disk"
            there = {each.name: each for each in present("block")}
            assert there[f"loop{number}"].properties["DEVPATH"] == event.properties["DEVPATH"]
            assert match(ModuleConf(), [manifest("disks", "block", ["block:loop*"])], event) == [
                ("disks", f"loop{number}")
            ]
        finally:
            fcntl.ioctl(control, LOOP_CTL_REMOVE, number)
        event = heard(listener, lambda e: e.name == f"loop{number}" and e.subsystem == "block")
        assert event.action == "remove"
    finally:
        os.close(control)


@pytest.mark.kernel("root")
@pytest.mark.fault
def test_what_another_process_sends_is_not_listened_to(
    listener: UeventListener, tmp_path: Path
) -> None:
    """Not even root's: to the listener alone, or to all of the group."""
    port = socket.fromfd(listener.fileno(), socket.AF_NETLINK, socket.SOCK_DGRAM).getsockname()[0]
    forger = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15)
    sent = 0
    with forger:
        forger.bind((0, 0))
        for address in ((port, 0), (0, 1)):
            try:
                forger.sendto(ADD, address)
                sent += 1
            except OSError:
                continue  # this kernel does not even pass it on
    assert sent
    # What the kernel sends afterwards comes after it.
    with loop_disk(tmp_path) as disk:
        Path(f"/sys/block/{disk}/uevent").write_text("change")
        heard(listener, lambda event: event.name == disk and "SYNTH_UUID" in event.properties)
    assert listener.ignored == sent


def test_nothing_waits(listener: UeventListener) -> None:
    listener.read()
    started = time.monotonic()
    listener.read()
    assert time.monotonic() - started < 5
    listener.close()
    listener.close()


@pytest.mark.kernel("root")
@pytest.mark.fault
def test_events_that_nobody_read_are_counted(listener: UeventListener, tmp_path: Path) -> None:
    with loop_disk(tmp_path) as disk:
        for _ in range(10000):  # far more than its buffer holds
            Path(f"/sys/block/{disk}/uevent").write_text("change")
        assert len(listener.read()) < 10000
        assert listener.lost
        Path(f"/sys/block/{disk}/uevent").write_text("change")
        heard(listener, lambda e: e.name == disk)  # and it goes on


def test_present_on_a_tree_of_our_own(tmp_path: Path) -> None:
    device = tmp_path / "devices" / "pci0" / "net" / "eth0"
    device.mkdir(parents=True)
    (device / "uevent").write_text("INTERFACE=eth0\nIFINDEX=2\n")
    folder = tmp_path / "class" / "net"
    folder.mkdir(parents=True)
    (folder / "eth0").symlink_to(device)
    (folder / "bonding_masters").touch()
    [event] = present("net", root=tmp_path)
    assert (event.action, event.subsystem, event.name) == ("add", "net", "eth0")
    assert event.properties["DEVPATH"] == "/devices/pci0/net/eth0"
    assert event.properties["INTERFACE"] == "eth0"
    assert list(present("moon", root=tmp_path)) == []


def manifest(name: str, kind: str, aliases: list[str]) -> Manifest:
    fields = {
        "name": name, "version": "1", "class": "detector", "description": "-", "author": "-",
        "licence": "-", "agent": {"object": "x.bpf.c"}, "extension": {"entry": "extension:X"},
        "target": {"kind": kind}, "aliases": aliases,
    }  # fmt: skip
    return msgspec.convert(fields, Manifest)


def block(name: str, kind: str = "disk", action: str = "add") -> Uevent:
    return Uevent(action, "block", name, {"ACTION": action, "DEVTYPE": kind, "MAJOR": "8"})


def test_match(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_text(
        "alias block:nvme* later\nalias net:* disks\nblacklist noisy\nalias block:* gone\n"
    )
    conf = ModuleConf.load([tmp_path])
    manifests = [
        manifest("disks", "block", ["block:sd*", "block:nvme*"]),
        manifest("later", "block", []),
        manifest("noisy", "block", ["block:*"]),
        manifest("whole", "system", ["net:*", "block:sdb"]),
    ]
    assert match(conf, manifests, block("sda")) == [("disks", "sda")]
    assert match(conf, manifests, block("sdb")) == [("disks", "sdb"), ("whole", "system")]
    assert match(conf, manifests, block("nvme0n1")) == [("later", "nvme0n1"), ("disks", "nvme0n1")]
    assert match(conf, manifests, block("sda1", "partition")) == []
    assert match(conf, manifests, block("sda", action="change")) == []
    assert match(conf, manifests, block("sda", action="remove")) == []
    hidden = Uevent("add", "block", "nvme0c0n1", {"ACTION": "add", "DEVTYPE": "disk"})
    assert match(conf, manifests, hidden) == []
    card = Uevent("add", "net", "eth0", {"ACTION": "add"})
    assert match(conf, manifests, card) == [("whole", "system")]  # no disk called eth0


@pytest.mark.skipif(not Path("/sys/class/net/lo").exists(), reason="sysfs has no network here")
def test_coldplug_finds_what_is_there_of_what_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_text("alias net:lo whole\n")
    conf = ModuleConf.load([tmp_path])
    whole, disks = manifest("whole", "system", []), manifest("disks", "block", ["block:*"])
    events = coldplug(conf, [whole, disks])
    assert {event.subsystem for event in events} == {"block", "net"}
    assert {event.name for event in events if event.subsystem == "net"} == {
        path.name for path in Path("/sys/class/net").iterdir() if (path / "uevent").exists()
    }
    targets = [target for event in events for target in match(conf, [whole, disks], event)]
    assert ("whole", "system") in targets
    found = {target for name, target in targets if name == "disks"}
    assert found == {path.name for path in Path("/sys/block").iterdir()}
    assert coldplug(ModuleConf(), [whole]) == []
