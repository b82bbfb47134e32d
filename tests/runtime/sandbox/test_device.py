# SPDX-License-Identifier: Apache-2.0
"""A device in the extension's process: its memory is shared, exceptions are told now and then."""

import os

import pytest

from kmind.runtime.sandbox import device as device_module
from kmind.runtime.sandbox.config import DeviceEntry
from kmind.runtime.sandbox.device import open_device


def test_memory_is_that_of_the_owner_and_descriptors_stay() -> None:
    memory = os.memfd_create("test")
    os.ftruncate(memory, 8192)
    entry = DeviceEntry(connection=50, memory=memory, lease=51, max_io=4096, depth=1)
    device = open_device(entry)
    try:
        assert device.memory is not None
        device.memory[:4] = b"kept"
        assert os.pread(memory, 4, 0) == b"kept"
        assert set(device.descriptors) == {50, 51, memory, device.wake}
        device.memory.close()
    finally:
        os.close(device.wake)
        os.close(memory)


def test_without_memory_there_is_none() -> None:
    entry = DeviceEntry(connection=50, memory=-1, lease=51, max_io=4096, depth=1)
    device = open_device(entry)
    os.close(device.wake)
    assert device.memory is None
    assert entry.descriptors == (50, 51)


def test_one_exception_a_second_is_told_and_the_others_are_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(device_module.time, "monotonic", lambda: now[0])
    report = device_module._Reports()
    for number in range(5):
        report(RuntimeError(f"mistake {number}"))
    now[0] += 1
    report(RuntimeError("later"))
    said = capsys.readouterr()
    assert "mistake 0" in said.err
    assert "mistake 1" not in said.err
    assert "later" in said.err
    assert "4 more exceptions" in said.out
