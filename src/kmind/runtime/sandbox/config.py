# SPDX-License-Identifier: Apache-2.0
"""Configuration that the owner of an instance passes to the extension's process at its start."""

from __future__ import annotations

import msgspec

from kmind.extension import KnobInfo, Value
from kmind.extension.manifest.manifest import TablePart

__all__ = ["THREADS", "CgroupEntry", "ChildConfig", "DeviceEntry", "TableEntry"]

THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Environment of an extension until all is imported: no numeric library may start threads."""


class CgroupEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Instructions to enter the cgroup that `kmind.runtime.sandbox.cgroup.cgroup` made.

    ``join`` are the ``cgroup.procs`` files that it writes itself to, before it imports
    anything; ``data_bytes`` stands in for a limit of memory that no cgroup holds (0: one does).
    """

    join: tuple[str, ...] = ()
    data_bytes: int = 0


class TableEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One of the agent's tables: a descriptor, which the process maps for reading, and closes."""

    fd: int
    part: TablePart


class DeviceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Device that a driver's process serves: descriptors that it holds for as long as it runs.

    ``connection`` is of /dev/fuse, ``memory`` of a memfd (-1: none is asked for), and ``lease`` of
    the locked file that stands for the device: locked while its owner or its server lives. Of
    ``depth`` requests in flight none is larger than ``max_io`` bytes.
    """

    connection: int
    memory: int
    lease: int
    max_io: int
    depth: int

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that there are."""
        return tuple(fd for fd in (self.connection, self.memory, self.lease) if fd >= 0)


class ChildConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sent as JSON through a pipe. ``uid`` None: privileges stay as they are.

    ``arena`` and ``doorbell`` are descriptors, ``address`` 0 means anywhere, and
    ``beat_s`` is the longest time between two heartbeats, in seconds. ``files`` may be
    read and the ``network`` be used, where true; nothing else is in reach.

    With ``keep`` the process outlives its owner, else it dies when ``parent`` does.
    ``log`` is the path of a FIFO for what it prints ("": a pipe, for one that is not
    kept). ``first_id`` is the id of its first recommendation: above the last one that
    the agent saw, where another extension served the same agent before. ``memory`` is what
    an earlier extension of the same instance left to be remembered. ``tables`` are those that
    the manifest declares, ``findings`` and ``reports`` the kinds that it may hand over. ``device``
    is for drivers.
    """

    package: str
    folder: str
    entry: str
    imports: tuple[str, ...]
    module: str
    target: str
    params: dict[str, Value]
    features: dict[str, int]
    knobs: dict[str, KnobInfo]
    arena: int
    address: int
    size: int
    doorbell: int
    beat_s: float
    uid: int | None
    parent: int
    first_id: int = 1
    memory: msgspec.Raw = msgspec.Raw(b"null")
    keep: bool = False
    log: str = ""
    files: tuple[str, ...] = ()
    network: bool = False
    tables: tuple[TableEntry, ...] = ()
    findings: tuple[str, ...] = ()
    reports: tuple[str, ...] = ()
    cgroup: CgroupEntry = CgroupEntry()
    device: DeviceEntry | None = None
