# SPDX-License-Identifier: Apache-2.0
"""The part of a gate that sees writes to files of sysfs, by a BPF security module.

How it decides is in lsm.bpf.c. It needs a kernel with CONFIG_BPF_LSM (Linux 5.7) and
"bpf" among its security modules, which few distributions have by default.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from struct import Struct

from kmind.bpf import BpfObject, Link, Map, open_map
from kmind.errors import BpfError, KmindError
from kmind.guard.gate._layout import FILE, HELD, HOLDS, KEY, NAME, repin, reuse

__all__ = ["LSM_LINK", "LSM_PINS", "SysfsGate", "acts"]

LSM_LINK = "lsm_link"
_FILES, _RETURNS = "km_lsm_files", "km_lsm_returns"
LSM_PINS = (LSM_LINK, f"{LSM_LINK}_new", _FILES, _RETURNS)

_OBJECT = Path(__file__).with_name("lsm.bpf.o")
_SYSFS = Path("/sys")
_INODE = Struct("=Q")
_YES = (1).to_bytes(4, "little")
# Each kernel has it, anybody's write of nothing to it does nothing, and it is no knob.
_TRIAL = Path("/sys/devices/virtual/mem/null/uevent")


class SysfsGate:
    """Its program, loaded. Not safe to share between threads.

    ``shared`` are the maps of the gate that it belongs to, by name; ``folder`` is where
    an earlier one is pinned that is to be taken over. Raises the errors of `kmind.bpf`.
    """

    def __init__(self, shared: Mapping[str, Map], folder: Path | None = None) -> None:
        self._object = BpfObject(_OBJECT)
        self._link: Link | None = None
        self._pinned = folder is not None
        self._inodes: dict[bytes, bytes] = {}  # of each key
        try:
            for name in self._object.maps.keys() & shared.keys():
                reuse(self._object.maps[name], shared[name].fd)
            for name in (_FILES, _RETURNS) if folder else ():
                assert folder is not None
                with open_map(folder / name) as left:
                    reuse(self._object.maps[name], left.fd)
            self._object.load()
        except BaseException:
            self._object.close()
            raise
        files = self._object.maps[_FILES]
        for inode in list(files.keys()):
            if row := files.lookup(inode):
                self._inodes[row[: KEY.size]] = inode

    @property
    def attached(self) -> bool:
        """True if the gate is active."""
        return self._link is not None

    def attach(self) -> None:
        """Gate from now on."""
        self._link = self._object.programs["gate_sysfs"].attach()

    def detach(self) -> None:
        """Gate no more; its pins are gone, if it had any. Safe to repeat."""
        if self._link is not None:
            self._link.close()
            self._link, self._pinned = None, False

    def guard(self, file: Path, key: bytes) -> None:
        """Gate a file from now on, as that of the knob and target in ``key``."""
        self.forget_return(key)
        try:
            stat, sysfs = file.stat(), _SYSFS.stat()
        except OSError as error:
            raise BpfError(f"cannot look at {file}: {error.strerror}") from None
        if stat.st_dev != sysfs.st_dev:
            raise BpfError(f"{file} is not a file of sysfs")
        self.release(key)  # the device may have come back with other files
        self._inodes[key] = _INODE.pack(stat.st_ino)
        # A path that is cut off still names the device.
        name = NAME.pack(os.fsencode(file)[: NAME.size - 1])
        row = FILE.pack(*KEY.unpack(key), 1, 0) + name
        self._object.maps[_FILES].update(self._inodes[key], row)

    def release(self, key: bytes) -> None:
        """Gate it no more. Safe to repeat."""
        if inode := self._inodes.pop(key, None):
            self._object.maps[_FILES].delete(inode)
        self.forget_return(key)

    def allow_return(self, key: bytes) -> None:
        """Let the owner write without an approval, to put the previous value back."""
        self._object.maps[_RETURNS].update(key, _YES)

    def forget_return(self, key: bytes) -> None:
        """Take that back. Safe to repeat."""
        self._object.maps[_RETURNS].delete(key)

    def pin(self, folder: Path) -> None:
        """From now on outlive this process, if it is attached. Safe to repeat."""
        if self._link is None:
            return
        for name in (_FILES, _RETURNS) if not self._pinned else ():
            (folder / name).unlink(missing_ok=True)  # of one that was cut short
            self._object.maps[name].pin(folder / name)
        self._pinned = True
        repin(self._link, folder / LSM_LINK)

    def close(self) -> None:
        """Let go of it. Safe to repeat."""
        self._object.close()

    def _refuses(self, file: Path) -> bool:
        """True if this process, as the owner, cannot write an unapproved value."""
        key = KEY.pack(0, 0)
        if self._object.programs["own"].test_run().retval:
            return False
        self._object.maps[HOLDS].update(key, HELD.pack(0, 0, 0))
        self.guard(file, key)
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"")
        except PermissionError:
            return True
        finally:
            os.close(fd)
        return False


@functools.cache
def acts() -> bool:
    """True if the running kernel asks a program of ours before it writes to sysfs.

    Tried once in each process: by an empty write, which has to be refused. On a kernel that was
    booted without ``lsm=...,bpf`` such a program loads, but is never asked.
    """
    with suppress(KmindError, OSError):
        trial = SysfsGate({})
        try:
            trial.attach()
            return trial._refuses(_TRIAL)
        finally:
            trial.close()
    return False
