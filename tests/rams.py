# SPDX-License-Identifier: Apache-2.0
"""The driver ``ram``, opened without an owner."""

import mmap

from kmind.driver.block import Setup
from kmind.modules.ram.extension import Ram

__all__ = ["opened_ram"]


def opened_ram(size: int, kind: type[Ram] = Ram) -> Ram:
    """A disk of that size, in memory of this process alone."""
    driver = kind()
    driver.open(Setup(memory=mmap.mmap(-1, size)))
    return driver
