# SPDX-License-Identifier: Apache-2.0
"""A real agent's table in the extension's process: there to be read, and not to be written."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from agents import compile_bpf
from extension_process import Running, config_for

from kmind.agent.kernel.agent import BpfAgent
from kmind.extension.manifest.manifest import TablePart
from kmind.runtime.sandbox.config import TableEntry
from kmind.runtime.sandbox.process import ExtensionProcess

ROWS_C = Path(__file__).parents[2] / "agent" / "rows.bpf.c"

READER = """\
import ctypes
import time
from kmind.extension import Extension


class Sample(Extension):
    def start(self):
        libc = ctypes.CDLL(None, use_errno=True)
        rows = self.context.tables["rows"].rows
        try:
            rows["count"][0] = 9
            print("wrote")
        except ValueError as error:
            print("numpy:", error)
        for name in ("rows", "calls"):
            address = self.context.tables[name].rows.ctypes.data
            page = ctypes.c_void_p(address // 4096 * 4096)
            result = libc.mprotect(page, ctypes.c_size_t(4096), 3)
            print(name, "mprotect:", result)
        row = self.context.tables["rows"].find(number=7)
        print("first:", int(row["count"][0]))
        while int(row["count"][0]) == 5:
            time.sleep(0.01)
        print("then:", int(row["count"][0]))
"""


def named(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "help": "x", **more}


PARTS = [
    msgspec.convert(words, TablePart)
    for words in (
        named(
            "rows",
            rows=64,
            key=[named("number", type="u64")],
            column=[
                named("count", kind="counter"),
                named("level", kind="gauge"),
                named("size", kind="histogram", scale=3, high=16),
                named("power", kind="histogram", high=32),
            ],
        ),
        named(
            "calls",
            rows=200,
            key=[named("id", type="u32"), named("name", type="bytes", size=8)],
            column=[named("calls", kind="counter")],
        ),
    )
]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[BpfAgent]:
    compiled = compile_bpf(ROWS_C, tmp_path / "rows.bpf.o")
    made = BpfAgent(compiled, tables=[part.shape for part in PARTS])
    made.start()
    yield made
    made.close()


def update(agent: BpfAgent, turns: int) -> None:
    """Update the row of key 7 so often: ``struct rows_work`` of rows.bpf.c."""
    agent.own.run("rows_run", np.array([7, 1 | turns << 32, 0, 0], "<u8").tobytes())


def mapping(line: str) -> tuple[int, str]:
    """Length and permissions, of a line of /proc/PID/maps."""
    bounds, permissions, *_ = line.split()
    first, last = (int(word, 16) for word in bounds.split("-"))
    return last - first, permissions


@pytest.mark.kernel("tp_btf")
def test_extension_reads_its_table_and_cannot_write_it(agent: BpfAgent, tmp_path: Path) -> None:
    update(agent, 5)
    config = config_for(
        agent,
        tmp_path,
        READER,
        address=agent.arena_address,
        tables=tuple(TableEntry(fd=agent.table_fds[p.name], part=p) for p in PARTS),
    )
    process = ExtensionProcess(config)
    try:
        child = Running(agent, process)
        child.until(lambda: child.said("first: 5"))
        update(agent, 3)
        child.until(lambda: child.said("then:"))
        # By their lengths, which no other map has. Of descriptors, the doorbell's is left.
        maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        shared = dict(mapping(line) for line in maps if "bpf-map" in line)
        files = Path(f"/proc/{process.pid}/fd").iterdir()
        opened = [str(path.readlink()) for path in files]
    finally:
        child.lines += process.close()
    assert child.said("numpy: assignment destination is read-only")
    assert child.said("rows mprotect: -1")
    assert child.said("calls mprotect: -1")
    assert 5 < int(child.said("then:").split()[1]) <= 8
    assert [shared[part.shape.size] for part in PARTS] == ["r--s", "r--s"]
    assert sum("bpf-map" in target for target in opened) == 1
