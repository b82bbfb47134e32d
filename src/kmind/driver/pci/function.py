# SPDX-License-Identifier: Apache-2.0
"""A PCI function: whose it is, and how it changes hands.

Source: Documentation/ABI/testing/sysfs-bus-pci, Documentation/driver-api/vfio.rst.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from kmind.errors import KmindError, NotSupportedError, UsageError

__all__ = ["VFIO", "Function"]

VFIO = "vfio-pci"
"""The kernel's driver that hands functions to user space."""

_BUS = Path("/sys/bus/pci")
_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_BRIDGE = "0x06"  # class code: bridges stay with the kernel, also in a group that is handed over


@dataclass(frozen=True)
class Function:
    """One function of a PCI device, by its address, such as ``0000:00:10.0``."""

    address: str

    def __post_init__(self) -> None:
        if not _ADDRESS.fullmatch(self.address):
            raise UsageError(
                f"{self.address!r} is no PCI address",
                hint="write it as lspci -D does: 0000:00:10.0",
            )
        if not self.folder.is_dir():
            raise UsageError(f"there is no PCI function {self.address}", hint="see lspci -D")

    @property
    def folder(self) -> Path:
        """Its folder in sysfs."""
        return _BUS / "devices" / self.address

    @property
    def driver(self) -> str | None:
        """The kernel's driver that has it now."""
        link = self.folder / "driver"
        return link.readlink().name if link.is_symlink() else None

    @property
    def is_nvme(self) -> bool:
        """True of NVMe controllers, by their class (01 08 02)."""
        return (self.folder / "class").read_text().strip() == "0x010802"

    @property
    def group(self) -> int:
        """The number of its IOMMU group. Raises NotSupportedError where no IOMMU guards memory."""
        link = self.folder / "iommu_group"
        if not link.is_symlink():
            raise NotSupportedError(
                f"no IOMMU confines {self.address}, so it could write to all memory",
                hint="switch the IOMMU on in the firmware, and boot with intel_iommu=on",
            )
        return int(link.readlink().name)

    @property
    def neighbours(self) -> list[str]:
        """Other functions of its group, bridges left out: they only change hands together."""
        found = []
        for entry in (self.folder / "iommu_group" / "devices").iterdir():
            bridge = (entry / "class").read_text().startswith(_BRIDGE)
            if entry.name != self.address and not bridge:
                found.append(entry.name)
        return sorted(found)

    def give_to(self, driver: str, *, timeout: float = 5) -> None:
        """Have one driver of the kernel let go of it, and another one take it.

        Raises NotSupportedError if that driver is not there, and KmindError if it does not take
        the function within ``timeout`` seconds; then no driver has it.
        """
        if self.driver == driver:
            return
        if not (_BUS / "drivers" / driver).is_dir():
            raise NotSupportedError(f"the kernel has no driver {driver}", hint=f"modprobe {driver}")
        self._write("driver_override", driver)
        try:
            self.release()
            (_BUS / "drivers_probe").write_text(self.address)
            deadline = time.monotonic() + timeout
            while self.driver != driver:
                if time.monotonic() > deadline:
                    raise KmindError(f"{driver} does not take {self.address}", hint="see dmesg")
                time.sleep(0.01)
        finally:
            if driver != VFIO:
                self._write("driver_override", "\n")

    def release(self) -> None:
        """Have its driver let go of it, if it has one."""
        if self.driver is not None:
            self._write("driver/unbind", self.address)

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
