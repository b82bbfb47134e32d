# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of workloads and its neighbours."""

from pathlib import Path

import pytest

MIB = 1 << 20
ON_THE_MACHINE = pytest.mark.kernel  # its disk and its cache, that is


def sectors_read(device: str) -> int:
    return int(Path("/sys/block", device, "stat").read_text().split()[2])
