# SPDX-License-Identifier: Apache-2.0
"""Accesses of a function that the IOMMU refused, as the kernel tells them in its log.

No tracepoint has them on Intel's IOMMU. The log is rate limited (10 lines in 5 s), so of many
there are fewer on record, but never none.

Source: dmar_fault_do_one in drivers/iommu/intel/dmar.c, amd_iommu_report_page_fault in
drivers/iommu/amd/iommu.c, Documentation/ABI/testing/dev-kmsg.
"""

from __future__ import annotations

import errno
import os
import re
from typing import Self

from kmind.driver.pci.function import Function

__all__ = ["Faults", "fault_of"]

_MOST = 8192  # bytes of a record of /dev/kmsg (PRINTKRB_RECORD_MAX is less)


def fault_of(address: str) -> re.Pattern[bytes]:
    """A pattern of the lines that tell of a refused access of the function at an address."""
    domain, _, place = address.partition(":")
    # Intel's name the domain from Linux 7 on only.
    name = rb"(%s:)?%s" % (re.escape(domain.encode()), re.escape(place.encode()))
    return re.compile(
        rb"DMAR: \[.*Request device \[%s\] fault addr" % name
        + rb"|AMD-Vi: Event logged \[IO_PAGE_FAULT device=%s " % name
    )


class Faults:
    """Counts the refused accesses of one function from when it is opened on."""

    def __init__(self, function: Function) -> None:
        self._pattern = fault_of(function.address)
        self._log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._log, 0, os.SEEK_END)
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._log)

    def count(self) -> int:
        """Return how many there were until now."""
        while True:
            try:
                line = os.read(self._log, _MOST)
            except BlockingIOError:
                return self._count
            except OSError as error:
                if error.errno != errno.EPIPE:  # EPIPE: records were overwritten before we read
                    raise
                continue
            self._count += bool(self._pattern.search(line))
