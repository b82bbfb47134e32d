# SPDX-License-Identifier: Apache-2.0
"""What a knob sits on: one block device, or the system as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from kmind.errors import KnobError, UsageError

__all__ = ["Target", "TargetKind", "block_devices", "parse_target"]

TargetKind = Literal["block", "system"]

_ROOT = Path("/")

# Where drivers show a serial number or a world-wide name; the first that is there counts.
_SERIALS = ("serial", "device/serial", "wwid", "device/wwid")


@dataclass(frozen=True)
class Target:
    """One thing that has knobs.

    ``name`` is the kernel's name for it ("vda"), or "system". ``id`` is the
    kernel's ``dev_t`` (12 bits of major, 20 of minor), or 0 for the system. All
    files of its knobs are found below ``root``, the running kernel's by default.
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

    def identity(self) -> str:
        """What tells this device from another that takes its name later.

        "254:0", and " serial=..." where the driver shows one; "system" for the
        system.
        """
        if self.kind == "system":
            return "system"
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
    """A target from its name: "system", or a block device."""
    return Target.system(root=root) if text == "system" else Target.block(text, root=root)


def _known(name: str, devices: list[str]) -> str:
    if not devices:
        return "no block device is visible below /sys/block: is sysfs mounted?"
    near = get_close_matches(name, devices, 1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{guess}this machine has {', '.join(devices)}"
