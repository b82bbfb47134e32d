# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of simulate and its neighbours."""

from collections.abc import Callable

from kmind.workloads import streams
from kmind.workloads.simulated_disk import DiskModel
from kmind.workloads.streams import Stream

PAGES = 1 << 16
MODEL = DiskModel(file_pages=PAGES, cache_pages=PAGES // 4)
Load = tuple[Callable[[], Stream], bool]
RANDOM: Load = (lambda: streams.random(100_000, pages=PAGES), True)
STREAM: Load = (lambda: streams.sequential(PAGES // 8, pages=PAGES, length=8), False)
