# SPDX-License-Identifier: Apache-2.0
"""Drivers in user space: devices whose requests a Python process answers.

This is what the author of a block driver needs. ``fuse/`` and ``loop`` are the transport that every
kernel with FUSE and loop devices has: a file system with one file, and a loop device on it.
"""

from kmind.driver.backing import Backing
from kmind.driver.block import LONGEST_DELAY_NS, AnswerError, Batch, BlockDriver, Op, Setup

__all__ = ["LONGEST_DELAY_NS", "AnswerError", "Backing", "Batch", "BlockDriver", "Op", "Setup"]
