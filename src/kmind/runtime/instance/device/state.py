# SPDX-License-Identifier: Apache-2.0
"""A device, as a daemon writes it down for the next one."""

from __future__ import annotations

import msgspec

from kmind.runtime.sandbox.config import DeviceEntry

__all__ = ["DeviceState"]


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """Place of a device that goes on without an owner, for a later one.

    ``entry`` has the descriptors, as they are numbered in the driver's process, ``number`` is the
    connection's in the kernel, ``loop`` that of the loop device, and ``mark`` the name by which
    the device is known as this one's.
    """

    entry: DeviceEntry
    number: int
    loop: int
    mark: str
    failed: str = ""
    restarts: int = 0
