# SPDX-License-Identifier: Apache-2.0
"""One owner has a device's name, together with its server, and after them anybody."""

import os
import subprocess
from pathlib import Path

import pytest

from kmind.errors import KmindError
from kmind.runtime.instance.device.lease import DeviceLease


def test_a_name_is_taken_until_it_is_released(tmp_path: Path) -> None:
    folder = tmp_path / "devices"
    first = DeviceLease(folder, "ram@system")
    with pytest.raises(KmindError, match="the device of ram@system is served already"):
        DeviceLease(folder, "ram@system")
    DeviceLease(folder, "other@system").release()
    first.release()
    first.release()
    DeviceLease(folder, "ram@system").release()
    assert not list(folder.iterdir())


def test_a_server_keeps_the_name_of_a_dead_owner(tmp_path: Path) -> None:
    lease = DeviceLease(tmp_path, "ram@system")
    server = subprocess.Popen(["sleep", "1000"], pass_fds=(lease.descriptor,))
    try:
        lease.let_go()  # as the kernel does at its owner's death
        with pytest.raises(KmindError, match="served already"):
            DeviceLease(tmp_path, "ram@system")
    finally:
        server.kill()
        server.wait()
    DeviceLease(tmp_path, "ram@system").release()


def test_a_lock_on_a_file_that_was_removed_counts_for_nothing(tmp_path: Path) -> None:
    first = DeviceLease(tmp_path, "ram@system")
    (tmp_path / "ram@system").unlink()
    second = DeviceLease(tmp_path, "ram@system")
    assert os.fstat(second.descriptor).st_nlink == 1
    first.let_go()
    second.release()


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "ram@system").symlink_to("/etc/hostname")
    with pytest.raises(KmindError, match="cannot lock"):
        DeviceLease(tmp_path, "ram@system")
