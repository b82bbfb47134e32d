# SPDX-License-Identifier: Apache-2.0
"""What a knob sits on: one block device, one cgroup, or the system as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal
from zlib import crc32

from kmind.errors import KnobError, UsageError
from kmind.knobs._cgroup import cgroup_mounts

__all__ = ["Target", "TargetKind", "block_devices", "parse_target"]

TargetKind = Literal["block", "system", "cgroup"]

_ROOT = Path("/")
_CGROUP = "cgroup:"

# Where drivers show a serial number or a world-wide name; the first that is there counts.
_SERIALS = ("serial", "device/serial", "wwid", "device/wwid")


@dataclass(frozen=True)
class Target:
    """One thing that has knobs.

    ``name`` is the kernel's name for it ("vda"), "system", or "cgroup:" and the path
    with "!" for each slash ("cgroup:system.slice!cron.service"). ``id`` is the
    kernel's ``dev_t`` (12 bits of major, 20 of minor), 0 for the system, or the CRC-32
    of a cgroup's name. All files of its knobs are found below ``root``, the running
    kernel's by default.
    """

    kind: TargetKind
    name: str
    id: int
    root: Path = _ROOT

    @classmethod
    def block(cls, name: str, *, root: Path = _ROOT) -> Target:
        """The whole disk ``name`` ("vda" or "/dev/vda").

        Raises ``UsageError`` for a partition (its queue is the disk's), and for
        what is not a block device.
        """
        # sysfs writes the slash of names such as cciss/c0d0 as an exclamation mark.
        short = name.removeprefix("/dev/").replace("/", "!")
        devices = block_devices(root)
        if short in devices:
            try:
                major, minor = (root / f"sys/block/{short}/dev").read_text().split(":")
                return cls("block", short, int(major) << 20 | int(minor), root)
            except (OSError, ValueError) as error:
                raise KnobError(f"cannot read the device number of {short}: {error}") from None
        for disk in devices:
            if (root / f"sys/block/{disk}/{short}/partition").exists():
                raise UsageError(
                    f"{short} is a partition and has no request queue of its own",
                    hint=f"name its disk: {disk}",
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
        name = _CGROUP + inner.replace("/", "!")
        target = cls("cgroup", name, crc32(name.encode()), root)
        if not target._cgroup_folders():
            raise UsageError(
                f"there is no cgroup /{inner}", hint="see them with: systemd-cgls, or find"
            )
        return target

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

    def identity(self) -> str:
        """What tells this device or cgroup from another that takes its name later.

        "254:0", and " serial=..." where the driver shows one; of a cgroup the inodes of
        its folders; "system" for the system.
        """
        if self.kind == "system":
            return "system"
        if self.kind == "cgroup":
            return " ".join(str(folder.stat().st_ino) for folder in self._cgroup_folders())
        text = f"{self.id >> 20}:{self.id & 0xFFFFF}"
        for file in _SERIALS:
            try:
                serial = (self.root / "sys/block" / self.name / file).read_text().strip("\0 \n")
            except (OSError, UnicodeDecodeError):
                continue
            if serial:
                return f"{text} serial={serial}"
        return text

    def __str__(self) -> str:
        return self.name


def block_devices(root: Path = _ROOT) -> list[str]:
    """Names of all whole block devices, sorted; empty where sysfs is not mounted."""
    try:
        return sorted(entry.name for entry in (root / "sys/block").iterdir())
    except OSError:
        return []


def parse_target(text: str, *, root: Path = _ROOT) -> Target:
    """A target from its name: "system", "cgroup:" and a path, or a block device."""
    if text == "system":
        return Target.system(root=root)
    if text.startswith(_CGROUP):
        return Target.cgroup(text.removeprefix(_CGROUP), root=root)
    return Target.block(text, root=root)


def _known(name: str, devices: list[str]) -> str:
    if not devices:
        return "no block device is visible below /sys/block: is sysfs mounted?"
    near = get_close_matches(name, devices, 1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{guess}this machine has {', '.join(devices)}"
