# SPDX-License-Identifier: Apache-2.0
"""A real disk that fails: its requests end in a report with their records."""

from __future__ import annotations

import base64
import json
import mmap
import os
import time
from pathlib import Path

import pytest
from sample_module import loop_disk
from serve.real import host

NEEDS = ("libbpf", "btf", "bpf_timer", "tp_btf")
PATIENCE_S = 60


def fail_to_read(node: str, count: int) -> None:
    """Read at so many places, past the page cache; each ends in an error."""
    fd = os.open(node, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 4096) as buffer:
            for number in range(count):
                with pytest.raises(OSError, match="Input/output"):
                    os.preadv(fd, [buffer], (1 << 20) + 4096 * number)
    finally:
        os.close(fd)


@pytest.mark.kernel(*NEEDS)
def test_failed_reads_are_reported_with_their_records(tmp_path: Path) -> None:
    with loop_disk(tmp_path) as disk, host(tmp_path) as machine:
        machine.start()
        machine.kmind("load", "blockio", disk, "--mode", "observe")
        os.truncate(tmp_path / "disk", 0)  # the file below the disk has gone
        fail_to_read(f"/dev/{disk}", 3)
        until = time.monotonic() + PATIENCE_S
        while True:
            rows = json.loads(machine.kmind("reports", "--json"))["reports"]
            if rows and rows[0]["count"] >= 3:
                break
            assert time.monotonic() < until, rows
            time.sleep(0.3)
        (row,) = rows
        assert (row["kind"], row["signature"], row["target"]) == (
            "failed_requests", "reads fail", disk,
        )  # fmt: skip
        shown = json.loads(machine.kmind("reports", "show", row["id"], "--json"))["reports"][0]
        head, *lines = base64.b64decode(shown["data"]["reads.csv"]).decode().splitlines()
        assert head == "time_ns,latency_ns,in_flight,sectors"
        assert len(lines) >= 3
        assert all(line.endswith(",8") for line in lines)
        assert any(event["event"] == "report" for event in machine.log())
        machine.end()
