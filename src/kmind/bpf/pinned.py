# SPDX-License-Identifier: Apache-2.0
"""Programs found again by a pin, in a process that did not load them."""

import os
from pathlib import Path

from kmind.bpf import _syscall as raw
from kmind.bpf.map import obj_get, obj_pin
from kmind.bpf.program import RunResult, program_id, run_program

__all__ = ["PinnedProgram", "open_program"]


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


def open_program(path: str | Path) -> PinnedProgram:
    """The program pinned at ``path``."""
    return PinnedProgram(Path(path).name, obj_get(path))
