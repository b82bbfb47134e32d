# SPDX-License-Identifier: Apache-2.0
"""Modules that are loaded because a device came."""

from pathlib import Path
from typing import Any

import pytest
from sample_module import loop_disk
from serve.memory import DISK, MemorySupervisor

from kmind.extension import list_modules
from kmind.extension.alias import Alias
from kmind.extension.conf import AliasLine, ModuleConf
from kmind.runtime.uevents import Uevent, UeventListener
from kmind.serve.devices import Devices


class Made:
    """Events that a test made up."""

    def __init__(self, *events: Uevent) -> None:
        self.events = list(events)
        self.lost = 0

    def read(self) -> list[Uevent]:
        events, self.events = self.events, []
        return events


def event(action: str, name: str = DISK, **properties: str) -> Uevent:
    known = {"ACTION": action, "SUBSYSTEM": "block", "DEVTYPE": "disk"}
    return Uevent(action, "block", name, known | properties)


def conf(pattern: str, module: str = "readahead") -> ModuleConf:
    return ModuleConf(aliases=(AliasLine(Alias.parse(pattern), module, "a.conf:1"),))


class Host:
    """A supervisor and its devices, in one thread."""

    def __init__(self, folder: Path, listener: Any, conf: ModuleConf) -> None:
        self.supervisor = MemorySupervisor(folder)
        self.said: list[str] = []
        manifests = [module.manifest for module in list_modules()[0]]
        self.devices = Devices(self.supervisor, listener, conf, manifests, self.said.append)

    def take(self) -> list[str]:
        """Let it act; what is loaded then."""
        self.devices.take()
        for _ in range(20):
            self.supervisor.step(0.001)
        return [each["name"] for each in self.supervisor.status()]


def test_loaded_when_it_comes_and_unloaded_when_it_goes(tmp_path: Path) -> None:
    listener = Made(event("add"), event("add"))
    host = Host(tmp_path, listener, conf(f"block:{DISK}"))
    assert host.take() == [f"readahead@{DISK}"]
    listener.events = [event("change"), event("remove", "other")]
    assert host.take() == [f"readahead@{DISK}"]
    listener.events = [event("remove")]
    assert host.take() == []
    assert host.said == []


def test_one_that_cannot_be_loaded_costs_no_other(tmp_path: Path) -> None:
    listener = Made(event("add", "kmind-none"), event("add"))
    host = Host(tmp_path, listener, conf("block:*"))
    assert host.take() == [f"readahead@{DISK}"]
    assert len(host.said) == 1
    assert host.said[0].startswith("readahead is not loaded for kmind-none: ")


def test_lost_events_are_told_once(tmp_path: Path) -> None:
    listener = Made()
    host = Host(tmp_path, listener, ModuleConf())
    listener.lost = 3
    host.take()
    host.take()
    assert len(host.said) == 1


@pytest.mark.kernel("root")
def test_a_real_disk(tmp_path: Path) -> None:
    """The kernel says itself that it is there."""
    with UeventListener() as listener, loop_disk(tmp_path) as disk:
        host = Host(tmp_path, listener, conf(f"block:{disk},ACTION=change"))
        assert host.take() == [f"readahead@{disk}"]
