# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of extension and its neighbours."""

from typing import Any

from modules.readahead_disk import at_random


def random_reads(**more: Any) -> dict[str, Any]:
    # The disk brings in 2000 pages for each miss, whatever is set: the owner measures.
    return at_random(200.0, 8000, **more)


def mixed_reads() -> dict[str, Any]:
    # Half of them go on where the last one ended, and readahead runs before them.
    return {**random_reads(), "fault_sequential": 100, "async_readahead": 150}
