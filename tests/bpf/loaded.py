# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of object and its neighbours."""

import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "bpf"


def u32(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder)


def u64(value: int) -> bytes:
    return value.to_bytes(8, sys.byteorder)


ADDRESS = 0x7A00_0000_0000
