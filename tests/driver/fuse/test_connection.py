# SPDX-License-Identifier: Apache-2.0
"""Connections to the real kernel."""

import os
from pathlib import Path

import pytest
from disks import require_devices

from kmind.driver.fuse.connection import Connection, abort
from kmind.driver.holders import connection_is_held
from kmind.errors import KmindError

pytestmark = pytest.mark.kernel()


def test_it_is_there_while_its_descriptor_is_open() -> None:
    require_devices()
    with Connection(max_io=64 << 10) as connection:
        number = connection.number
        assert connection.max_io == 64 << 10
        assert connection_is_held(number)
        # No folder shows it, in this process or another.
        assert f":{number} / " not in Path("/proc/self/mountinfo").read_text()
    assert not connection_is_held(number)
    connection.close()  # does nothing


def test_without_a_server_an_abort_ends_who_waits() -> None:
    require_devices()
    with Connection() as connection:
        connection.abort()
        with pytest.raises(OSError, match="not connected"):
            os.open("disk", os.O_RDWR, dir_fd=connection.mount)


def test_to_abort_what_is_not_there_is_no_error() -> None:
    require_devices()
    abort(0xFFFFF)


@pytest.mark.parametrize("max_io", [0, 512, 4097, 2 << 20])
def test_other_sizes_are_refused(max_io: int) -> None:
    with pytest.raises(KmindError, match="4 KiB to 1 MiB"):
        Connection(max_io=max_io)
