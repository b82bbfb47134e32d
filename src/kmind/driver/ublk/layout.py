# SPDX-License-Identifier: Apache-2.0
"""Commands and memory that ublk shares with its server: include/uapi/linux/ublk_cmd.h as dtypes."""

from __future__ import annotations

from enum import IntEnum, IntFlag

import numpy as np

__all__ = [
    "CONTROL",
    "DESCRIPTOR",
    "INFO",
    "IO",
    "MAX_DEPTH",
    "NO_UNMAP",
    "PARAMS",
    "Attribute",
    "Command",
    "Feature",
    "IoCommand",
    "State",
]

MAX_DEPTH = 4096
"""Requests of one queue; descriptors of the next one begin after so many."""

CONTROL = np.dtype(
    [
        ("device", "<u4"),
        ("queue", "<u2"),
        ("length", "<u2"),
        ("address", "<u8"),
        ("data", "<u8"),
        ("", "V8"),
    ]
)
"""struct ublksrv_ctrl_cmd."""

INFO = np.dtype(
    [
        ("queues", "<u2"),
        ("depth", "<u2"),
        ("state", "<u2"),
        ("", "V2"),
        ("max_io", "<u4"),
        ("device", "<u4"),
        ("pid", "<i4"),
        ("", "V4"),
        ("flags", "<u8"),
        ("own_flags", "<u8"),
        ("uid", "<u4"),
        ("gid", "<u4"),
        ("", "V16"),
    ]
)
"""struct ublksrv_ctrl_dev_info."""

_BASIC = np.dtype(
    [
        ("attributes", "<u4"),
        ("logical_shift", "u1"),
        ("physical_shift", "u1"),
        ("optimal_shift", "u1"),
        ("minimal_shift", "u1"),
        ("max_sectors", "<u4"),
        ("chunk_sectors", "<u4"),
        ("sectors", "<u8"),
        ("boundary", "<u8"),
    ]
)
_DISCARD = np.dtype(
    [
        ("alignment", "<u4"),
        ("granularity", "<u4"),
        ("max_sectors", "<u4"),
        ("max_zeroes_sectors", "<u4"),
        ("max_segments", "<u2"),
        ("", "V2"),
    ]
)
PARAMS = np.dtype(
    [("length", "<u4"), ("kinds", "<u4"), ("basic", _BASIC), ("discard", _DISCARD), ("", "V4")]
)
"""struct ublk_params, as far as its discard part; ``kinds``: 1 for basic, 2 for discard."""

DESCRIPTOR = np.dtype([("op", "<u4"), ("sectors", "<u4"), ("first", "<u8"), ("address", "<u8")])
"""struct ublksrv_io_desc: a request; the bits of ``op`` from the eighth on are flags."""

IO = np.dtype([("queue", "<u2"), ("tag", "<u2"), ("result", "<i4"), ("address", "<u8")])
"""struct ublksrv_io_cmd."""


def _encoded(number: int, size: int, direction: int = 3) -> int:
    return direction << 30 | size << 16 | ord("u") << 8 | number


class Command(IntEnum):
    """Commands to /dev/ublk-control, in the form of ioctls."""

    INFO = _encoded(0x02, CONTROL.itemsize, 2)
    ADD = _encoded(0x04, CONTROL.itemsize)
    DELETE = _encoded(0x05, CONTROL.itemsize)
    START = _encoded(0x06, CONTROL.itemsize)
    STOP = _encoded(0x07, CONTROL.itemsize)
    SET_PARAMS = _encoded(0x08, CONTROL.itemsize)
    START_RECOVERY = _encoded(0x10, CONTROL.itemsize)
    END_RECOVERY = _encoded(0x11, CONTROL.itemsize)
    FEATURES = _encoded(0x13, CONTROL.itemsize, 2)


class IoCommand(IntEnum):
    """Commands to a device's own file."""

    FETCH = _encoded(0x20, IO.itemsize)
    COMMIT_AND_FETCH = _encoded(0x21, IO.itemsize)


class Feature(IntFlag):
    """Features that a device is made with."""

    USER_RECOVERY = 1 << 3
    USER_RECOVERY_REISSUE = 1 << 4
    CMD_IOCTL_ENCODE = 1 << 6


NO_UNMAP = 1 << 15
"""A flag of a request, in ``op``: the range may not be freed, only zeroed."""


class Attribute(IntFlag):
    """Attributes of a device."""

    READ_ONLY = 1 << 0
    VOLATILE_CACHE = 1 << 2


class State(IntEnum):
    """States of a device."""

    DEAD = 0
    LIVE = 1
    QUIESCED = 2
    """Requests wait for the next server."""
