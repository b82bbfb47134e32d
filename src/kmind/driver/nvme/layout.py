# SPDX-License-Identifier: Apache-2.0
"""Registers, queue entries and data structures that an NVMe controller and its driver share.

Source: NVM Express Base Specification 2.0, sections 3.1.3 (registers), 3.3.3 (queue entries), 5.17
(Identify); NVM Command Set Specification 1.0.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

__all__ = [
    "COMPLETION",
    "DOORBELLS",
    "NAMESPACE",
    "PAGE",
    "SUBMISSION",
    "Admin",
    "Io",
    "Register",
]

PAGE = 4096
"""Bytes of a page of memory as controllers take it (CC.MPS = 0)."""

DOORBELLS = 0x1000
"""The place of the doorbells among the registers."""


class Register(IntEnum):
    """Offsets of the registers."""

    CAPABILITIES = 0x00
    MASK_INTERRUPTS = 0x0C
    CONFIGURATION = 0x14
    STATUS = 0x1C
    ADMIN_SIZES = 0x24
    ADMIN_SUBMISSION = 0x28
    ADMIN_COMPLETION = 0x30


class Admin(IntEnum):
    """Commands to the controller."""

    CREATE_SUBMISSION = 0x01
    CREATE_COMPLETION = 0x05
    IDENTIFY = 0x06
    SET_FEATURES = 0x09


class Io(IntEnum):
    """Commands to a namespace."""

    FLUSH = 0x00
    WRITE = 0x01
    READ = 0x02
    WRITE_ZEROES = 0x08


SUBMISSION = np.dtype(
    [
        ("opcode", "u1"),
        ("flags", "u1"),
        ("id", "<u2"),
        ("namespace", "<u4"),
        ("", "V8"),
        ("metadata", "<u8"),
        ("page", "<u8"),  # PRP entry 1: where the data begins
        ("next", "<u8"),  # PRP entry 2: its second page, or the list of all after the first
        ("word", "<u4", 6),  # dwords 10 to 15
    ]
)
"""A command."""

COMPLETION = np.dtype(
    [
        ("result", "<u4"),
        ("", "V4"),
        ("head", "<u2"),
        ("queue", "<u2"),
        ("id", "<u2"),
        ("status", "<u2"),  # bit 0 turns over with each round of the ring
    ]
)
"""The answer to a command."""

_FORMAT = np.dtype([("metadata", "<u2"), ("shift", "u1"), ("performance", "u1")])

NAMESPACE = np.dtype(
    {
        "names": ["size", "formats", "format", "format_table"],
        "formats": ["<u8", "u1", "u1", (_FORMAT, 16)],
        "offsets": [0, 25, 26, 128],
        "itemsize": PAGE,
    }
)
"""A namespace, as Identify describes it: ``size`` in blocks of ``1 << shift`` bytes."""
