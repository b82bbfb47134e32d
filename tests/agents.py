# SPDX-License-Identifier: Apache-2.0
"""Agents for tests: one without hooks on the real kernel, and recommendations as bytes."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kmind.abi import layout
from kmind.agent.bpf import BpfAgent
from kmind.queue import Geometry
from kmind.queue.completion import check_words

__all__ = ["WORK", "BareAgent", "compile_bpf", "recommendation", "write_slot"]

ROOT = Path(__file__).resolve().parent.parent
WORK = np.dtype(
    [(name, "<u4") for name in ("pushes", "admits", "kind", "subject")]
    + [(name, "<u8") for name in ("value", "count", "gauge", "pushed")]
)
"""``struct bare_work`` of bare.bpf.c."""


def compile_bpf(source: Path, target: Path) -> Path:
    """Compile one BPF source as the build does."""
    sys.path.insert(0, str(ROOT))
    try:
        import hatch_build
    finally:
        sys.path.remove(str(ROOT))
    if not any(map(shutil.which, ("clang-19", "clang"))):
        pytest.skip("clang is not installed")
    command = [hatch_build.find_clang(), *hatch_build._flags(), "-c", source, "-o", target]
    subprocess.run(command, check=True)
    return target


class BareAgent(BpfAgent):
    """The agent of bare.bpf.c. It does nothing by itself until ``start``."""

    def work(self, **words: int) -> int:
        """Do what a hook would do, on this CPU; how many records were pushed."""
        return int(self._call("bare_run", words)["pushed"])

    def interrupts(self, count: int) -> None:
        """Let a timer push ``count`` records of kind 66, on this CPU, meanwhile."""
        self._call("bare_interrupts", {"pushes": count})

    def _call(self, program: str, words: dict[str, int]) -> Any:
        work = np.zeros((), WORK)
        for name, value in words.items():
            work[name] = value
        return np.frombuffer(self.run(program, work.tobytes()), WORK)[0]


def recommendation(position: int, **words: int) -> Any:
    """A well-formed slot for that position of the queue: ``layout.RECOMMENDATION``."""
    entry = np.zeros((), layout.RECOMMENDATION)
    entry["commit"] = (position + 1) % (1 << 32)
    for name, value in words.items():
        entry[name] = value
    entry["check"] = check_words(np.frombuffer(entry.tobytes(), np.uint64))
    return entry


def write_slot(arena: Any, geometry: Geometry, position: int, entry: Any) -> None:
    """Put a slot's bytes where they belong, and move the queue's index behind it."""
    start = geometry.cq + position % layout.LIMIT["CQ_SLOTS"] * entry.itemsize
    arena[start : start + entry.itemsize] = np.frombuffer(entry.tobytes(), np.uint8)
    header = arena[: layout.HEADER.itemsize].view(layout.HEADER)
    header["cq_tail"] = (position + 1) % (1 << 32)
