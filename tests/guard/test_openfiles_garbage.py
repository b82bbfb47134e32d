# SPDX-License-Identifier: Apache-2.0
"""Telling many open files makes no garbage: all threads of the daemon wait for a collection."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from struct import Struct
from types import SimpleNamespace
from typing import Any

import pytest

from kmind.guard import openfiles
from kmind.guard.openfiles import refresh_open_files
from kmind.knobs import Target

COUNT = 20_000
DISK = Target("block", "sim0", 7)
PAGES = 128 * 1024 // os.sysconf("SC_PAGE_SIZE")
RECORD = Struct("=QQQIIiiIIII")  # struct open_file of openfiles.bpf.c


@contextmanager
def collections() -> Iterator[list[int]]:
    """The generations that are collected meanwhile."""
    made: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            made.append(info["generation"])

    gc.callbacks.append(note)
    try:
        yield made
    finally:
        gc.callbacks.remove(note)


def test_twenty_thousand_files_cause_no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of a process that lets nobody in: no descriptor has such a number.
    me, first = os.getpid(), 1 << 30
    rows = [
        RECORD.pack(0xFFFF_8880_0000_0000 + each, each, 5, 7, 7, me, me, first + each, 0, PAGES, 4)
        for each in range(COUNT)
    ]
    listing = {"descriptors": b"".join(rows), "mappings": rows[0]}
    programs: Any = {
        name: SimpleNamespace(attach_iter=lambda name=name: nullcontext(name)) for name in listing
    }
    monkeypatch.setattr(openfiles, "_iterators", lambda _: SimpleNamespace(programs=programs))
    monkeypatch.setattr(openfiles, "read_iter", lambda name: listing[name])
    monkeypatch.setattr(openfiles, "_ahead", {})
    refresh_open_files(DISK, 128, 16)  # what is imported the first time
    gc.collect()
    with collections() as made:
        result = refresh_open_files(DISK, 128, 16)
    assert (result.files, result.skipped, result.unreachable, result.late) == (0, 0, COUNT, 0)
    assert len(made) <= 1
