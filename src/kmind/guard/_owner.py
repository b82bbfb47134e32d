# SPDX-License-Identifier: Apache-2.0
"""Identity of the process that makes a change, even if a later process gets the same pid."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kmind.util.procfs import start_time

__all__ = ["Owner"]


@dataclass(frozen=True)
class Owner:
    """An instance and the process that acts for it.

    ``instance`` is such as "readahead@vda". ``start`` is the process's start
    time in clock ticks since boot (proc(5), field 22 of /proc/PID/stat).
    """

    instance: str
    uid: int
    pid: int
    start: int

    @classmethod
    def me(cls, instance: str) -> Owner:
        """This process, acting for an instance."""
        pid = os.getpid()
        return cls(instance, os.getuid(), pid, start_time(pid) or 0)

    def alive(self) -> bool:
        """True if that very process still runs; a zombie does not."""
        return start_time(self.pid) == self.start

    def same_process(self, other: Owner) -> bool:
        """True if both are the same process."""
        return (self.pid, self.start) == (other.pid, other.start)

    def __str__(self) -> str:
        return f"{self.instance} (pid {self.pid})"
