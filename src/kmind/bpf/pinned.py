# SPDX-License-Identifier: Apache-2.0
"""Programs found again by a pin, in a process that did not load them."""

import os
from collections.abc import Iterable
from pathlib import Path

from kmind.bpf import _syscall as raw
from kmind.bpf.map import Map, obj_get, obj_pin
from kmind.bpf.object import BpfObject
from kmind.bpf.program import Program, RunResult, program_id, run_program

__all__ = ["PinnedProgram", "let_go", "open_program"]


class PinnedProgram:
    """A loaded program behind a descriptor. Got from `open_program`; close it after use."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self._fd = fd

    @property
    def fd(self) -> int:
        """Its descriptor."""
        return self._fd

    @property
    def id(self) -> int:
        """The kernel's number for it, as ``bpftool prog`` prints it."""
        return program_id(self._fd)

    def test_run(self, ctx: bytes | bytearray = b"") -> RunResult:
        """Run it once, as ``Program.test_run``; for SEC("syscall") programs."""
        return run_program(self._fd, self.name, ctx)

    def attach_pinned(self, path: str | Path) -> None:
        """Attach a tracing program where it belongs. The pin of the link is all that holds it."""
        with raw.owned(raw.raw_tracepoint_open(self._fd)) as link:
            obj_pin(link, path)

    def close(self) -> None:
        """Let go of it; safe to repeat."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def let_go(
    loaded: BpfObject | None,
    maps: Iterable[Map],
    programs: Iterable[Program | PinnedProgram],
) -> None:
    """Close an object that this process loaded, or the maps and programs that it opened by pins.

    What is pinned stays. Safe to repeat.
    """
    if loaded is not None:
        loaded.close()
        return
    for map_ in maps:
        map_.close()
    for program in programs:
        if isinstance(program, PinnedProgram):
            program.close()


def open_program(path: str | Path) -> PinnedProgram:
    """The program pinned at ``path``."""
    return PinnedProgram(Path(path).name, obj_get(path))
