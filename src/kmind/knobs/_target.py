# SPDX-License-Identifier: Apache-2.0
"""Targets of knobs: one block device, one cgroup, or the system as a whole."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Literal

from kmind.errors import KnobError, UsageError
from kmind.knobs._cgroup import cgroup_mounts
from kmind.util.foreign import foreign, one_line

__all__ = ["Target", "TargetKind", "block_devices", "block_targets", "parse_target"]

TargetKind = Literal["block", "system", "cgroup"]

_ROOT = Path("/")
_CGROUP = "cgroup:"
_NODE = 0x7FFF_FFFF
_VERSION_1 = 0x8000_0000

# Where drivers show a serial number or a world-wide name; the first that is there counts.
_SERIALS = ("serial", "device/serial", "wwid", "device/wwid")


@dataclass(frozen=True)
class Target:
    """One thing that has knobs.

    ``name`` is the kernel's name for it ("vda"), "system", or "cgroup:" and the path
    with "!" for each slash ("cgroup:system.slice!cron.service"). ``id`` is the
    kernel's ``dev_t`` (12 bits of major, 20 of minor), 0 for the system, or made of a
    cgroup's inode: no two that are there have the same. All files of its knobs are found
    below ``root``, the running kernel's by default.
    """

    kind: TargetKind
    name: str
    id: int
    root: Path = _ROOT

    @classmethod
    def block(cls, name: str, *, root: Path = _ROOT) -> Target:
        """The whole disk of that name ("vda"), or the one that a path leads to.

        A path ("/dev/vda", "/dev/disk/by-id/...", "/dev/mapper/vg-root", "./link") is
        followed to its device node, and the node's number counts, not the spelling
        (stat(2), /sys/dev/block). A link to a partition stands for the partition's disk.

        Raises ``UsageError`` for a partition by its own name (its queue is the disk's), for
        a hidden device (one path of an NVMe multipath disk), and for what is no block device.
        """
        devices = block_devices(root)
        short = _followed(name, devices, root)
        if short in devices:
            number = _number(root / "sys/block" / short)
            if number is None:
                raise KnobError(
                    f"cannot read the device number of {short}",
                    hint=f"see: cat /sys/block/{short}/dev",
                )
            return cls("block", short, number, root)
        for disk in devices:
            if (root / f"sys/block/{disk}/{short}/partition").exists():
                raise UsageError(
                    f"{short} is a partition and has no request queue of its own",
                    hint=f"name its disk: {disk}",
                )
        if _is_hidden(root / "sys/block" / short):
            raise UsageError(
                f"{short} is hidden: one path of a disk that has several",
                hint=f"name the disk itself: {', '.join(devices)}",
            )
        raise UsageError(f"unknown block device {name!r}", hint=_known(short, devices))

    @classmethod
    def system(cls, *, root: Path = _ROOT) -> Target:
        """The system as a whole, which has the knobs below /proc/sys."""
        return cls("system", "system", 0, root)

    @classmethod
    def cgroup(cls, path: str, *, root: Path = _ROOT) -> Target:
        """The cgroup of that path ("/system.slice"), in whichever hierarchies have it.

        Raises ``UsageError`` where none has, and for the root, which has no knobs.
        """
        inner = path.replace("!", "/").strip("/")
        if not inner or any(part in ("", ".", "..") for part in inner.split("/")):
            raise UsageError(
                f"{path!r} names no cgroup below the root", hint="such as cgroup:/system.slice"
            )
        if not inner.isprintable():  # whoever may make cgroups names them, and logs show it
            raise UsageError(f"{path!r} holds a character that cannot be printed")
        name = _CGROUP + inner.replace("/", "!")
        number = cls("cgroup", name, 0, root)._cgroup_number()
        if not number:
            raise UsageError(
                f"there is no cgroup /{inner}", hint="see them with: systemd-cgls, or find"
            )
        return cls("cgroup", name, number, root)

    def cgroup_folder(self, controller: str) -> Path:
        """A cgroup's folder in the hierarchy of a controller of version 1; "": of version 2.

        Where that is not mounted, the place where it would be.
        """
        point = cgroup_mounts(self.root).get(controller)
        point = point or self.root / "sys/fs/cgroup" / (controller or "unified")
        return point / self.name.removeprefix(_CGROUP).replace("!", "/")

    def _cgroup_folders(self) -> list[Path]:
        folders = [self.cgroup_folder(name) for name in sorted(cgroup_mounts(self.root))]
        return [folder for folder in folders if folder.is_dir()]

    def _cgroup_number(self) -> int:
        # The kernel's, not a hash of the name: whoever may make cgroups can find two names of
        # one hash. kernfs numbers its nodes with 31 bits in a hierarchy (fs/kernfs/dir.c).
        for place, controller in enumerate(sorted(cgroup_mounts(self.root))):
            with suppress(OSError):
                inode = self.cgroup_folder(controller).stat().st_ino
                if not controller:
                    return inode & _NODE
                return _VERSION_1 | (place & 0xF) << 27 | inode & _NODE >> 4
        return 0

    def is_present(self) -> bool:
        """True until the device or cgroup has gone, or another one has taken its name."""
        if self.kind == "block":
            return _number(self.root / "sys/block" / self.name) == self.id
        return self.kind == "system" or self._cgroup_number() == self.id

    def is_named(self, text: str) -> bool:
        """True if that is its name, or another spelling that ``parse_target`` takes for it."""
        if text == self.name:
            return True
        if self.kind == "cgroup" and text.startswith(_CGROUP):
            inner = text.removeprefix(_CGROUP).replace("!", "/").strip("/")
            return _CGROUP + inner.replace("/", "!") == self.name
        if self.kind != "block" or "/" not in text or text.startswith(_CGROUP):
            return False
        try:
            return _followed(text, block_devices(self.root), self.root) == self.name
        except UsageError:
            return False  # it leads nowhere now

    def identity(self) -> str:
        """Return a text that differs for another device or cgroup that takes this name later.

        "254:0", and " serial=..." where the driver shows one, else " diskseq=...", of which
        each disk of a boot has its own (Linux 5.15, Documentation/ABI/stable/sysfs-block);
        of a cgroup the inodes of its folders; "system" for the system.
        """
        if self.kind == "system":
            return "system"
        if self.kind == "cgroup":
            return " ".join(str(folder.stat().st_ino) for folder in self._cgroup_folders())
        text = f"{self.id >> 20}:{self.id & 0xFFFFF}"
        for file in (*_SERIALS, "diskseq"):
            try:
                serial = (self.root / "sys/block" / self.name / file).read_text().strip("\0 \n")
            except (OSError, UnicodeDecodeError):
                continue
            if serial:
                return f"{text} {'diskseq' if file == 'diskseq' else 'serial'}={serial}"
        return text

    def __str__(self) -> str:
        return self.name


def block_devices(root: Path = _ROOT) -> list[str]:
    """Names of all whole block devices, sorted; empty where sysfs is not mounted.

    Hidden ones are left out: the paths of an NVMe multipath disk (``nvme0c0n1``) have
    neither node nor number (GENHD_FL_HIDDEN, block/genhd.c).
    """
    folder = root / "sys/block"
    try:
        return sorted(entry.name for entry in folder.iterdir() if not _is_hidden(entry))
    except OSError:
        return []


def block_targets(root: Path = _ROOT) -> list[Target]:
    """All whole block devices that can be read, by name: one that goes meanwhile is left out."""
    numbers = ((name, _number(root / "sys/block" / name)) for name in block_devices(root))
    return [Target("block", name, number, root) for name, number in numbers if number is not None]


def parse_target(text: str, *, root: Path = _ROOT) -> Target:
    """The target of that name: "system", "cgroup:" and a path, or a block device.

    Raises ``UsageError`` where there is none. See ``Target.block`` for paths to disks.
    """
    with foreign(partial(_no_target, text)):
        if text == "system":
            return Target.system(root=root)
        if text.startswith(_CGROUP):
            return Target.cgroup(text.removeprefix(_CGROUP), root=root)
        return Target.block(text, root=root)


def _no_target(text: str, why: str) -> UsageError:
    return UsageError(
        f"{one_line(text)!r} is not a target: {why}", hint="name a disk, a cgroup, or system"
    )


def _followed(name: str, devices: Sequence[str], root: Path) -> str:
    """The kernel's name of what a name or a path stands for."""
    # sysfs writes the slash of names such as cciss/c0d0 as an exclamation mark.
    spelled = name.removeprefix("/dev/").replace("/", "!")
    if "/" not in name:
        return spelled
    if "\0" in name:
        raise UsageError(f"{name!r} is not a path", hint="name a block device, such as vda")
    path = Path(name) if root == _ROOT else root / name.lstrip("/")
    try:
        node = path.stat()
    except OSError as error:
        # A container may see a disk in /sys and have no node of it; so may cciss/c0d0 be meant.
        if not path.is_symlink():
            return spelled
        raise UsageError(
            f"{name} leads to no device: {error.strerror}", hint="see: ls -l, and readlink -f"
        ) from None
    if not stat.S_ISBLK(node.st_mode):
        if spelled in devices:
            return spelled
        raise UsageError(f"{name} is not a block device", hint=_known(spelled, list(devices)))
    number = f"{os.major(node.st_rdev)}:{os.minor(node.st_rdev)}"
    folder = (root / "sys/dev/block" / number).resolve()
    if not folder.is_dir():
        raise UsageError(
            f"{name} is block device {number}, which the kernel does not have",
            hint="is the disk gone, or /sys not mounted?",
        )
    is_link_to_part = (folder / "partition").exists() and folder.name != spelled
    return folder.parent.name if is_link_to_part else folder.name


def _number(folder: Path) -> int | None:
    """The device number of a folder in /sys/block; None where there is none to read."""
    try:
        major, _, minor = (folder / "dev").read_text().partition(":")
        return int(major) << 20 | int(minor)
    except (OSError, ValueError):
        return None


def _is_hidden(folder: Path) -> bool:
    try:
        return (folder / "hidden").read_text().strip() == "1"
    except OSError:
        return False


def _known(name: str, devices: list[str]) -> str:
    if not devices:
        return "no block device is visible below /sys/block: is sysfs mounted?"
    near = get_close_matches(name, devices, 1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{guess}this machine has {', '.join(devices)}"
