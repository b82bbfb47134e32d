# SPDX-License-Identifier: Apache-2.0
"""Lines of the kernel's log that tell of a refused access; real ones: tests/vm/test_nvme.py."""

import pytest

from kmind.driver.pci.faults import fault_of

# As Linux 6.12, 7.3 and, by its source, drivers/iommu/amd/iommu.c wrote them.
LINES = [
    b"3,812,1;DMAR: [DMA Write NO_PASID] Request device [00:10.0] fault addr 0x1000 [fault reason",
    b"3,812,1;DMAR: [DMA Write NO_PASID] Request device [0000:00:10.0] fault addr 0x1000 [fault r",
    b"3,9,1;vfio-pci 0000:00:10.0: AMD-Vi: Event logged [IO_PAGE_FAULT device=00:10.0 domain=0x00",
]


@pytest.mark.parametrize("line", LINES)
def test_lines_are_told_of_the_function_that_they_name(line: bytes) -> None:
    assert fault_of("0000:00:10.0").search(line)
    for other in ("0000:00:10.1", "0000:00:11.0", "0000:01:10.0"):
        assert not fault_of(other).search(line)


def test_another_line_is_none() -> None:
    assert not fault_of("0000:00:10.0").search(b"6,1,1;nvme nvme1: pci function 0000:00:10.0")
