# SPDX-License-Identifier: Apache-2.0
"""io_uring for drivers: rings whose entries and completions are numpy arrays."""

from kmind.uring import prepare
from kmind.uring._setup import MOST_ENTRIES
from kmind.uring.buffers import Buffers
from kmind.uring.layout import Op, Setup, SqeFlag
from kmind.uring.registered import register_buffers, register_files, restrict, update_files
from kmind.uring.ring import Ring

__all__ = [
    "MOST_ENTRIES",
    "Buffers",
    "Op",
    "Ring",
    "Setup",
    "SqeFlag",
    "prepare",
    "register_buffers",
    "register_files",
    "restrict",
    "update_files",
]
