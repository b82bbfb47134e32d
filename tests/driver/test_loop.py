# SPDX-License-Identifier: Apache-2.0
"""Loop devices, on plain files."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import require_devices

from kmind.driver.loop import LoopDevice, sweep
from kmind.errors import KmindError

pytestmark = pytest.mark.kernel()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[LoopDevice]:
    require_devices()
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    file = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        device = LoopDevice.attach(file, "x" * 100)
    finally:
        os.close(file)
    yield device
    device.detach(force=True)


def attached(device: LoopDevice) -> bool:
    return Path(f"/sys/block/{device.path.name}/loop").exists()


def test_it_is_attached_and_detached(device: LoopDevice) -> None:
    queue = Path(f"/sys/block/{device.path.name}")
    assert (queue / "size").read_text().strip() == "2048"
    assert (queue / "queue/logical_block_size").read_text().strip() == "4096"
    assert (queue / "loop/dio").read_text().strip() == "1"
    assert device.detach()
    assert not attached(device)
    assert device.detach()  # it is free


def test_in_use_it_is_kept_and_told_by_whom(device: LoopDevice) -> None:
    opened = os.open(device.path, os.O_RDONLY)
    try:
        with pytest.raises(KmindError, match=rf"in use by process {os.getpid()} "):
            device.detach(timeout=0.1)
    finally:
        os.close(opened)
    assert attached(device)


def test_by_force_it_goes_with_its_last_user(device: LoopDevice) -> None:
    opened = os.open(device.path, os.O_RDONLY)
    try:
        assert not device.detach(force=True)
        assert attached(device)
    finally:
        os.close(opened)
    assert not attached(device)


def test_a_device_of_the_same_number_that_is_anothers_is_left_alone(device: LoopDevice) -> None:
    assert LoopDevice(device.number, b"kmind:1:other").detach()
    assert attached(device)


def test_others_devices_are_not_swept(device: LoopDevice) -> None:
    assert device.path.name not in sweep()
    assert attached(device)
