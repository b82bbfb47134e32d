# SPDX-License-Identifier: Apache-2.0
"""An extension's process, as a daemon writes it down for the next one."""

from __future__ import annotations

import msgspec

__all__ = ["ProcessState"]


class ProcessState(msgspec.Struct, frozen=True, kw_only=True):
    """The extension's process. ``start`` tells it from a later one of the same number.

    ``start`` is in clock ticks since boot (proc(5)), ``uid`` None where it kept its
    owner's privileges, ``log`` the FIFO that it prints to, ``cgroup`` the name of its
    cgroup ("": none).
    """

    pid: int
    start: int
    uid: int | None
    log: str
    cgroup: str = ""
