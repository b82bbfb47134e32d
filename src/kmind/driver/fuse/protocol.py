# SPDX-License-Identifier: Apache-2.0
"""Layout of FUSE's messages, as far as they are used here.

Source: include/uapi/linux/fuse.h. A request starts with ``in_header``; of READ, WRITE, FSYNC and
FALLOCATE all that matters stands in its first 80 bytes, so one record, ``REQUEST``, reads them
all. Data of a WRITE follows it.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

__all__ = [
    "ATTR_OUT",
    "ENTRY_OUT",
    "FALLOCATE",
    "INIT_IN",
    "INIT_OUT",
    "IN_HEADER_BYTES",
    "MAJOR",
    "MINOR",
    "NOTIFY_RESEND",
    "OPEN_OUT",
    "OUT_HEADER",
    "REQUEST",
    "RESENT",
    "STATFS_OUT",
    "InitFlag",
    "Opcode",
]

MAJOR = 7
MINOR = 38
"""The version spoken; the kernel speaks the lesser of both sides'."""

NOTIFY_RESEND = 7
"""Code of the notification that puts requests which were read, but not answered, back (6.9)."""

RESENT = np.uint64(1 << 63)
"""Bit in ``unique`` of a request that was put back. The answer has to carry it, too."""


class Opcode(IntEnum):
    """``enum fuse_opcode``: the requests that are not just refused, and some that are."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    ACCESS = 34
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43


class InitFlag(IntEnum):
    """Features that are asked for at INIT."""

    ASYNC_READ = 1 << 0
    BIG_WRITES = 1 << 5
    ASYNC_DIO = 1 << 15
    MAX_PAGES = 1 << 22


IN_HEADER_BYTES = 40

_IN_HEADER = [
    ("len", "<u4"),
    ("opcode", "<u4"),
    ("unique", "<u8"),
    ("nodeid", "<u8"),
    ("uid", "<u4"),
    ("gid", "<u4"),
    ("pid", "<u4"),
    ("extlen", "<u2"),
    ("", "<u2"),
]

REQUEST = np.dtype(
    [
        *_IN_HEADER,
        ("fh", "<u8"),
        ("offset", "<u8"),
        ("size", "<u4"),
        ("io_flags", "<u4"),
        ("lock_owner", "<u8"),
        ("open_flags", "<u4"),
        ("", "<u4"),
    ]
)
"""``fuse_in_header`` with ``fuse_read_in`` or ``fuse_write_in``."""

FALLOCATE = np.dtype(
    [*_IN_HEADER, ("fh", "<u8"), ("offset", "<u8"), ("length", "<u8"), ("mode", "<u4"), ("", "V12")]
)
"""``fuse_in_header`` with ``fuse_fallocate_in``, as long as ``REQUEST``."""

OUT_HEADER = np.dtype([("len", "<u4"), ("error", "<i4"), ("unique", "<u8")])

INIT_IN = np.dtype([("major", "<u4"), ("minor", "<u4"), ("max_readahead", "<u4"), ("flags", "<u4")])
INIT_OUT = np.dtype(
    [
        ("major", "<u4"),
        ("minor", "<u4"),
        ("max_readahead", "<u4"),
        ("flags", "<u4"),
        ("max_background", "<u2"),
        ("congestion_threshold", "<u2"),
        ("max_write", "<u4"),
        ("time_gran", "<u4"),
        ("max_pages", "<u2"),
        ("map_alignment", "<u2"),
        ("flags2", "<u4"),
        ("unused", "<u4", 7),
    ]
)

_ATTR = np.dtype(
    [
        ("ino", "<u8"),
        ("size", "<u8"),
        ("blocks", "<u8"),
        ("times", "<u8", 3),
        ("nsec", "<u4", 3),
        ("mode", "<u4"),
        ("nlink", "<u4"),
        ("uid", "<u4"),
        ("gid", "<u4"),
        ("rdev", "<u4"),
        ("blksize", "<u4"),
        ("flags", "<u4"),
    ]
)
ATTR_OUT = np.dtype([("valid", "<u8"), ("nsec", "<u4"), ("", "<u4"), ("attr", _ATTR)])
ENTRY_OUT = np.dtype(
    [
        ("nodeid", "<u8"),
        ("generation", "<u8"),
        ("entry_valid", "<u8"),
        ("attr_valid", "<u8"),
        ("nsec", "<u4", 2),
        ("attr", _ATTR),
    ]
)
OPEN_OUT = np.dtype([("fh", "<u8"), ("flags", "<u4"), ("backing", "<i4")])
STATFS_OUT = np.dtype(
    [
        ("blocks", "<u8"),
        ("free", "<u8", 2),
        ("files", "<u8", 2),
        ("bsize", "<u4"),
        ("namelen", "<u4"),
        ("frsize", "<u4"),
        ("spare", "<u4", 7),
    ]
)
