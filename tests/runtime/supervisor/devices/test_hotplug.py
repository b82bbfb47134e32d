# SPDX-License-Identifier: Apache-2.0
"""Modules come and go with devices, those that were there before the daemon among them."""

import fcntl
import os
from pathlib import Path

import pytest
from runtime.supervised import Rig

from kmind.errors import KmindError
from kmind.extension.discovery.conf import ModuleConf
from kmind.runtime.supervisor.devices.hotplug import Hotplug
from kmind.runtime.supervisor.devices.uevent import Uevent
from kmind.runtime.supervisor.devices.unwanted import Unwanted

LOOP_CTL_ADD, LOOP_CTL_REMOVE = 0x4C80, 0x4C81  # include/uapi/linux/loop.h
kernel = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap")


def conf_of(folder: Path, text: str) -> ModuleConf:
    """Return the admin's configuration; the machine's own disks are left alone."""
    folder.mkdir(exist_ok=True)
    (folder / "a.conf").write_text(f"blacklist readahead\n{text}\n")
    return ModuleConf.load([folder])


def test_one_that_cannot_be_loaded_does_not_stop_the_others(tmp_path: Path) -> None:
    loaded: list[tuple[str, str]] = []
    said: list[str] = []

    def load(module: str, target: str) -> None:
        if target == "loop8":
            raise KmindError("no room")
        loaded.append((module, target))

    conf = conf_of(tmp_path, "alias block:loop* slowio")
    devices = Hotplug(conf, load=load, gone=said.append, log=said.append)
    fd = devices.start()
    while devices.waiting:  # whatever is there
        devices.run_due()
    loaded.clear()
    said.clear()
    for name, action in (("loop8", "add"), ("loop9", "add"), ("loop9", "remove")):
        devices._waiting.append(Uevent(action, "block", name, {"ACTION": action, "MAJOR": "7"}))
        devices.run_due()
    assert fd is not None
    assert loaded == [("slowio", "loop9")]
    assert said == ["slowio is not loaded for loop8: no room", "loop9"]
    devices.run_due()
    devices.close()


def test_what_is_unwanted_is_kept_and_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "run/unloaded.json"
    names = Unwanted(path)
    names.add("a@x")
    names.add("b@y")
    names.discard("a@x")
    assert [name in Unwanted(path) for name in ("a@x", "b@y")] == [False, True]
    names.clear()
    assert not path.exists()
    path.write_text("{nonsense")
    assert "b@y" not in Unwanted(path)


@kernel
def test_coldplug(rig: Rig, disk: str, second: str, tmp_path: Path) -> None:
    """Modules that an alias names are loaded at the start, unless blacklisted or unloaded."""
    conf = conf_of(tmp_path / "conf", f"alias block:{disk} slowio\nalias block:{second} slowio")
    supervisor = rig.make(conf=conf, devices=True)
    supervisor.start()
    wanted = {f"slowio@{disk}", f"slowio@{second}"}
    rig.run_until(lambda: wanted <= supervisor.members.keys())
    assert all(name.startswith("slowio@") for name in supervisor.members), "a blacklisted one"
    assert {each["mode"] for each in supervisor.status()} == {"advise"}
    supervisor.requests.unload(f"slowio@{disk}")
    # A restart in place does not bring back what the admin has unloaded.
    supervisor.close(keep=True)
    supervisor = rig.make(conf=conf, devices=True)
    supervisor.start()
    rig.run_for(0.5)
    assert supervisor.members.keys() == {f"slowio@{second}"}
    # Another start does, and so does loading it by name.
    supervisor.close(keep=False)
    supervisor = rig.make(conf=conf, devices=True)
    supervisor.start()
    rig.run_until(lambda: wanted <= supervisor.members.keys())
    supervisor.close(keep=False)
    # Without leave to, nothing is loaded by itself.
    supervisor = rig.make(conf=conf)
    supervisor.start()
    rig.run_for(0.3)
    assert not supervisor.members


@kernel
def test_a_disk_that_comes_and_goes(rig: Rig, tmp_path: Path) -> None:
    number = 78
    conf = conf_of(tmp_path / "conf", f"alias block:loop{number} slowio")
    supervisor = rig.make(conf=conf, devices=True)
    supervisor.start()
    control = os.open("/dev/loop-control", os.O_RDWR)
    try:
        fcntl.ioctl(control, LOOP_CTL_ADD, number)
        try:
            rig.run_until(lambda: f"slowio@loop{number}" in supervisor.members)
        finally:
            fcntl.ioctl(control, LOOP_CTL_REMOVE, number)
        rig.run_until(lambda: not supervisor.members)
        assert supervisor.core.instances() == []
        assert any("has gone" in each["message"] for each in rig.of("log"))
    finally:
        os.close(control)
