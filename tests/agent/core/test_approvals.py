# SPDX-License-Identifier: Apache-2.0
"""Approvals that are given, revoked and given anew while the owner writes."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from agents import compile_bpf

from kmind.bpf import BpfObject

pytestmark = pytest.mark.kernel("libbpf", "syscall")

APPROVALS = Path(__file__).parents[1] / "approvals.bpf.c"
WORK = np.dtype([("key", "<u4"), ("turns", "<u4"), ("seen", "<u8"), ("wrong", "<u8")])
TURNS = 4_000_000


def test_no_approval_has_the_words_of_another(tmp_path: Path) -> None:
    """The memory of one that is taken back is the next one's at once."""
    roles = ("agent", "owner")
    with BpfObject(compile_bpf(APPROVALS, tmp_path / "approvals.bpf.o")) as loaded:
        loaded.load()
        done = {role: np.zeros((), WORK) for role in roles}
        together = threading.Barrier(len(roles))

        def run(role: str, cpu: int) -> None:
            os.sched_setaffinity(0, {cpu})  # this thread's
            words = done[role]
            words["key"], words["turns"] = 1, TURNS
            together.wait()
            ran = loaded.programs[role].test_run(words.tobytes())
            done[role] = np.frombuffer(ran.ctx, WORK)[0]

        cpus = itertools.cycle(sorted(os.sched_getaffinity(0)))
        threads = [
            threading.Thread(target=run, args=each) for each in zip(roles, cpus, strict=False)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(done[role]["seen"] > TURNS // 10 for role in roles)
        assert [int(done[role]["wrong"]) for role in roles] == [0, 0]
