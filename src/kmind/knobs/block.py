# SPDX-License-Identifier: Apache-2.0
"""Knobs of a block device's request queue, below /sys/block/NAME/queue."""

from __future__ import annotations

import os

from kmind.knobs._base import Knob

__all__ = ["KNOBS"]

_DOC = "Documentation/ABI/stable/sysfs-block"

# The kernel keeps the readahead window in pages and rounds down to one.
_PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024

KNOBS = (
    Knob(
        name="block.read_ahead_kb",
        target="block",
        path="sys/block/{name}/queue/read_ahead_kb",
        summary="readahead: the amount that the kernel reads ahead of a reader",
        reference=_DOC,
        unit="kB",
        minimum=0,
        maximum=16384,
        grid=_PAGE_KB,
        propagate="open_files",
        drain=0,
        note="A file copies the value when it is opened; kmind updates files that are open.",
        cost="cheap",
        cost_why="kmind goes through the disk's open files and updates them.",
    ),
    Knob(
        name="block.scheduler",
        target="block",
        path="sys/block/{name}/queue/scheduler",
        summary="I/O scheduler that orders requests",
        reference="Documentation/block/switching-sched.rst",
        kind="enum",
        choices=("none", "mq-deadline", "kyber", "bfq"),
        disturbs=("block.nr_requests", "block.wbt_lat_usec"),
        note="A change resets the settings below queue/iosched.",
        cost="disturbing",
        cost_why="The queue is frozen: new requests wait until those in flight are done.",
    ),
    Knob(
        name="block.nr_requests",
        target="block",
        path="sys/block/{name}/queue/nr_requests",
        summary="length of the request queue",
        reference=_DOC,
        unit="requests",
        minimum=16,
        maximum=2048,
        note='With scheduler "none" the kernel refuses more than the hardware queue holds.',
        cost="disturbing",
        cost_why="The queue is frozen: new requests wait until those in flight are done.",
    ),
    Knob(
        name="block.wbt_lat_usec",
        target="block",
        path="sys/block/{name}/queue/wbt_lat_usec",
        summary="read latency that writeback is throttled to keep; 0: off",
        reference=_DOC,
        unit="us",
        minimum=0,
        maximum=500_000,
        settle="slow",
        note="After a write the kernel no longer switches it off by itself under bfq.",
        cost="disturbing",
        cost_why="The queue is frozen: new requests wait until those in flight are done.",
    ),
    Knob(
        name="block.rq_affinity",
        target="block",
        path="sys/block/{name}/queue/rq_affinity",
        summary="CPU that completes a request; 0: any, 1: of the submitter's group, 2: its own",
        reference=_DOC,
        minimum=0,
        maximum=2,
        cost="none",
        cost_why="Applies from the next completion on.",
    ),
    Knob(
        name="block.nomerges",
        target="block",
        path="sys/block/{name}/queue/nomerges",
        summary="search for requests to merge; 0: full, 1: one lookup, 2: none",
        reference=_DOC,
        minimum=0,
        maximum=2,
        cost="none",
        cost_why="Applies from the next request on.",
    ),
    Knob(
        name="block.max_sectors_kb",
        target="block",
        path="sys/block/{name}/queue/max_sectors_kb",
        summary="the largest request that the kernel makes",
        reference=_DOC,
        unit="kB",
        minimum=64,
        maximum=4096,
        grid=_PAGE_KB,
        note="The kernel refuses more than queue/max_hw_sectors_kb.",
        cost="disturbing",
        cost_why="The queue is frozen: new requests wait until those in flight are done.",
    ),
)
"""All knobs of this family."""
