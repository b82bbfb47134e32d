# SPDX-License-Identifier: Apache-2.0
"""Loading the core object, and finding it again by its pins.

Below the root lie ``stats``, ``core/`` with a pin for each map and for the program, and
the folders ``instances`` and ``agents``. ``core/owner`` is pinned last: a core without it
was never finished, and is made anew.

The root and its folders are root's alone, mode 0700: whoever owned one could move the pins away
later, or have links in their place. None is used that is not.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.abi.btf import Btf
from kmind.bpf import (
    BpfObject,
    Link,
    Map,
    PinnedProgram,
    Program,
    let_go,
    obj_pin,
    open_link,
    open_map,
    open_program,
)
from kmind.errors import KmindError, NotSupportedError, PrivilegeError
from kmind.util.files import make_private

__all__ = ["SHARED", "Loaded", "make", "open_or_make", "owner_words", "remove"]

SHARED = ("instances", "leases", "approved", "actions", "owner")
"""The maps that agents declare too, each as ``km_NAME``."""

_MAPS = ("instances", "leases", "approved", "actions", "classes", "owner")
_VALUES = {
    "instances": layout.INSTANCE,
    "leases": layout.LEASE,
    "approved": layout.APPROVED,
    "classes": layout.CLASS,
}
_PATIENCE = 1000
_BPFFS = "/sys/fs/bpf"
_MOUNT_FLAGS = 2 | 4 | 8  # MS_NOSUID, MS_NODEV, MS_NOEXEC
_FOLDERS = ("core", "instances", "agents")
_REMEDY = f"find out who made it; then remove it, and mount {_BPFFS} with -o mode=700"
_OBJECT = Path(__file__).with_name("core.bpf.o")

_libc = ctypes.CDLL(None, use_errno=True)


class Loaded:
    """The core's maps, its program and the iterator behind ``stats``."""

    def __init__(
        self,
        maps: Mapping[str, Map],
        program: Program | PinnedProgram,
        stats: Link,
        object_: BpfObject | None = None,
    ) -> None:
        self.maps = maps
        self.program = program
        self.stats = stats
        self._object = object_

    def leases(self) -> npt.NDArray[Any]:
        """A copy of all places for leases, as ``layout.LEASE``."""
        held = self.maps["leases"]
        size = layout.LEASE.itemsize * held.max_entries
        with mmap.mmap(held.fd, size, mmap.MAP_SHARED, mmap.PROT_READ) as view:
            return np.frombuffer(view[:], layout.LEASE)

    def call(self, op: str, **words: int) -> np.void:
        """Have the core's program do one of ``enum kmind_core_op``; its answer.

        Raises KmindError if another process changes the same place for longer than it may.
        """
        call = np.zeros((), layout.CORE_CALL)
        call["op"] = layout.CORE_OP[op]
        for name, value in words.items():
            call[name] = value
        for _ in range(_PATIENCE):
            after = self.program.test_run(call.tobytes()).ctx
            row: np.void = np.frombuffer(after, layout.CORE_CALL)[0]
            if int(row["result"]) != -errno.EBUSY:
                return row
            os.sched_yield()  # another process is just changing it
        raise KmindError("another process does not let go of the core object")

    def close(self) -> None:
        """Let go of all; what is pinned stays. Safe to repeat."""
        self.stats.close()
        let_go(self._object, self.maps.values(), [self.program])


def make() -> Loaded:
    """A core of this process alone."""
    if not _OBJECT.exists():
        raise KmindError(f"the core object is not compiled: no {_OBJECT}", hint="run: make setup")
    Btf.kernel()  # where it has no types it says so, and libbpf less
    core = BpfObject(_OBJECT)
    try:
        core.load()
        maps = {name: core.maps[f"km_{name}"] for name in _MAPS}
        maps["owner"].update(bytes(4), owner_words(0))
        stats = core.programs["km_stats"].attach_iter(maps["instances"].fd)
    except BaseException:
        core.close()
        raise
    return Loaded(maps, core.programs["km_core"], stats, core)


def open_or_make(root: Path, *, mount: bool) -> Loaded:
    """The core that is pinned at ``root``, or a new one that is then."""
    _need_bpffs(root, mount)
    make_private(root, what="the folder of pins", hint=_REMEDY)
    for name in (*_FOLDERS, "gate"):
        if os.path.lexists(root / name):
            make_private(root / name, what="the folder of pins", hint=_REMEDY)
    if (root / "core" / "owner").exists():
        return _open(root)
    remove(root)
    loaded = make()
    try:
        _pin(loaded, root)
    except BaseException:
        loaded.close()
        remove(root)
        raise
    return loaded


def owner_words(beat_ns: int) -> bytes:
    """``struct kmind_owner`` of this process."""
    words = np.zeros((), layout.OWNER)
    words["beat_ns"], words["pid"], words["abi"] = beat_ns, os.getpid(), layout.LIMIT["CORE_ABI"]
    return words.tobytes()


def remove(root: Path) -> None:
    """Remove the core's pins, and the folders if nothing else is in them."""
    for name in ("owner", "program", *_MAPS):
        (root / "core" / name).unlink(missing_ok=True)
    (root / "stats").unlink(missing_ok=True)
    for folder in (root / "core", root / "instances", root / "agents", root):
        with contextlib.suppress(OSError):  # not there, or agents are left in it
            folder.rmdir()


def _open(root: Path) -> Loaded:
    core = root / "core"
    with open_map(core / "owner") as owner:
        words = np.frombuffer(owner.lookup(bytes(4)) or bytes(16), layout.OWNER)[0]
    abi = int(words["abi"])
    maps = {name: open_map(core / name) for name in _MAPS}
    loaded = Loaded(maps, open_program(core / "program"), open_link(root / "stats"))
    sizes = all(maps[name].value_size >= value.itemsize for name, value in _VALUES.items())
    if abi != layout.LIMIT["CORE_ABI"] or not sizes:
        loaded.close()
        raise KmindError(
            f"the core object at {root} is of ABI {abi}, and this kmind's of "
            f"{layout.LIMIT['CORE_ABI']}",
            hint=f"unload all modules with the kmind that loaded them, then: rm -r {root}",
        )
    return loaded


def _pin(loaded: Loaded, root: Path) -> None:
    for folder in (root, *(root / name for name in _FOLDERS)):
        make_private(folder, what="the folder of pins", hint=_REMEDY)
    loaded.stats.pin(root / "stats")
    obj_pin(loaded.program.fd, root / "core" / "program")
    for name in _MAPS:  # the owner's comes last
        loaded.maps[name].pin(root / "core" / name)


def _need_bpffs(root: Path, mount: bool) -> None:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    places = [line.split()[1] for line in lines if line.split()[2] == "bpf"]
    if any(root.is_relative_to(place) for place in places):
        return
    command = f"mount -t bpf -o mode=700 bpf {_BPFFS}"
    if not mount or not root.is_relative_to(_BPFFS):
        raise NotSupportedError(f"no bpf file system is mounted above {root}", hint=command)
    # As systemd mounts it. Without a mode everybody may make a folder of any name in it.
    if _libc.mount(b"bpf", _BPFFS.encode(), b"bpf", _MOUNT_FLAGS, b"mode=700"):
        cause = os.strerror(ctypes.get_errno())
        raise PrivilegeError(f"cannot mount a bpf file system: {cause}", hint=f"as root: {command}")
