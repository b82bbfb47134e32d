# SPDX-License-Identifier: Apache-2.0
"""Processes and the boot, as /proc names them for good (proc(5))."""

from __future__ import annotations

from pathlib import Path

__all__ = ["boot_id", "start_time"]

_PROC = Path("/proc")


def boot_id() -> str:
    """The kernel's random identity of this boot."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if it has ended.

    Field 22 of /proc/PID/stat (proc(5)): with the number, it names a process for good.
    """
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The command may hold any bytes, brackets too: fields are counted after its last one.
    fields = text.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
