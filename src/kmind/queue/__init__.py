# SPDX-License-Identifier: Apache-2.0
"""The user half of the queues: batches of records, recommendations, the doorbell."""

from kmind.queue.completion import CompletionQueue, read_note
from kmind.queue.doorbell import Doorbell
from kmind.queue.endpoint import Bell, Endpoint, peek_windows, read_status
from kmind.queue.histogram import bucket_bounds, bucket_count, bucket_of
from kmind.queue.layout import Geometry
from kmind.queue.memory import MEMORY_MOST, MemoryReader
from kmind.queue.ring import Reader
from kmind.queue.table import Table, TableFill, TableShape, map_table, open_tables

__all__ = [
    "MEMORY_MOST",
    "Bell",
    "CompletionQueue",
    "Doorbell",
    "Endpoint",
    "Geometry",
    "MemoryReader",
    "Reader",
    "Table",
    "TableFill",
    "TableShape",
    "bucket_bounds",
    "bucket_count",
    "bucket_of",
    "map_table",
    "open_tables",
    "peek_windows",
    "read_note",
    "read_status",
]
