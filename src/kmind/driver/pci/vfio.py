# SPDX-License-Identifier: Apache-2.0
"""A PCI function's registers and its window of memory, by VFIO.

The owner opens the function and maps a memfd for it (`Opened`): the IOMMU then lets it write there
and nowhere else. A driver's process gets two descriptors, the device's and the memfd's, and
neither can widen the window (`Device`).

Source: include/uapi/linux/vfio.h, Documentation/driver-api/vfio.rst.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from typing import Self

import numpy as np

from kmind.driver.pci.function import VFIO, Function
from kmind.errors import KmindError, NotSupportedError, UsageError
from kmind.util.steps import Step, run_steps

__all__ = ["BASE", "Device", "Opened"]

BASE = 1 << 32
"""The window's address as the function sees it, above all that platforms reserve on x86."""

_SET_IOMMU = 0x3B66
_GROUP_STATUS, _SET_CONTAINER, _GET_DEVICE = 0x3B67, 0x3B68, 0x3B6A
_REGION_INFO, _SET_IRQS, _RESET, _MAP_DMA = 0x3B6C, 0x3B6E, 0x3B6F, 0x3B71
_TYPE1V2 = 3
_VIABLE = 1
_READ_WRITE = 3
_BAR0, _CONFIG = 0, 7
_MSIX = 2
_EVENTFD_TRIGGER = 4 | 32
_COMMAND, _BUS_MASTER, _MEMORY = 4, 4, 2  # the register of configuration space, and two bits of it
_REGION = struct.Struct("<IIIIQQ")
_MAP = struct.Struct("<IIQQQ")


class Opened:
    """A function in its owner's hands: taken from the kernel's driver, with a window of memory.

    As a context manager; at the end the function is reset and goes back to ``driver``, the one
    that had it before. A process that was given the device has to be dead by then, or to have
    closed it: the kernel waits for that without end (vfio_unregister_group_dev). ``window`` is the
    size of memory in bytes, whole pages; it is there, and pinned, before anything else happens.
    Raises NotSupportedError without an IOMMU or vfio-pci, and KmindError if the function cannot be
    handed over alone.
    """

    def __init__(self, function: Function, window: int) -> None:
        if window <= 0 or window % mmap.PAGESIZE:
            raise UsageError(f"a window of {window} bytes is no number of whole pages")
        self.function = function
        self.size = window
        self.driver = function.driver
        self.device = self.memfd = -1
        self._container = self._group = -1
        self._mapped: mmap.mmap | None = None

    def __enter__(self) -> Self:
        if others := self.function.neighbours if self.function.group >= 0 else []:
            raise KmindError(
                f"{self.function.address} shares its IOMMU group with {', '.join(others)}",
                hint="they can reach each other's memory, so none of them is taken alone",
            )
        run_steps(
            [
                Step("taking the function", self._take, self._give_back),
                Step("opening its group", self._open_group, self._close_group),
                Step("granting its memory", self._map, self._unmap),
                Step("opening the device", self._open_device, self._close_device),
            ]
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Reset the function, take its window away, and give it back to the kernel's driver."""
        if self._container < 0:
            return
        self.reset()
        self._close_device()
        self._close_group()
        self._unmap()
        self._give_back()

    def reset(self) -> None:
        """Stop the function, whatever it is doing: it forgets its queues."""
        try:
            fcntl.ioctl(self.device, _RESET)
        except OSError as error:
            # Without a reset of its own it may not be a bus master any more, at least.
            Device(self.device, -1, self.size).stop_dma()
            if error.errno != errno.EINVAL:
                raise

    def _take(self) -> None:
        self.function.give_to(VFIO)

    def _give_back(self) -> None:
        if self.driver is None:
            self.function.release()
        else:
            self.function.give_to(self.driver)

    def _open_group(self) -> None:
        number = self.function.group
        try:
            self._container = os.open("/dev/vfio/vfio", os.O_RDWR | os.O_CLOEXEC)
            self._group = os.open(f"/dev/vfio/{number}", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            self._close_group()
            raise NotSupportedError(
                f"cannot open IOMMU group {number}: {error.strerror}",
                hint="modprobe vfio-pci vfio_iommu_type1; is another process using it?",
            ) from None
        status = bytearray(struct.pack("<II", 8, 0))
        fcntl.ioctl(self._group, _GROUP_STATUS, status)
        if not struct.unpack("<II", status)[1] & _VIABLE:
            self._close_group()
            raise KmindError(f"IOMMU group {number} is not all vfio-pci's", hint="see lspci -k")
        fcntl.ioctl(self._group, _SET_CONTAINER, struct.pack("<i", self._container))
        fcntl.ioctl(self._container, _SET_IOMMU, _TYPE1V2)

    def _close_group(self) -> None:
        for name in ("_group", "_container"):
            if (descriptor := getattr(self, name)) >= 0:
                os.close(descriptor)
                setattr(self, name, -1)

    def _map(self) -> None:
        self.memfd = os.memfd_create("kmind-dma", os.MFD_CLOEXEC)
        os.ftruncate(self.memfd, self.size)
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        self._mapped = mmap.mmap(self.memfd, self.size, flags=flags)
        self._mapped.madvise(mmap.MADV_DONTFORK)
        address = np.frombuffer(self._mapped, np.uint8).ctypes.data
        try:
            fcntl.ioctl(
                self._container,
                _MAP_DMA,
                _MAP.pack(_MAP.size, _READ_WRITE, address, BASE, self.size),
            )
        except OSError as error:
            self._unmap()
            raise KmindError(
                f"the IOMMU does not take a window of {self.size >> 10} KiB: {error.strerror}",
                hint="have a smaller one; locked memory is limited (ulimit -l)",
            ) from None

    def _unmap(self) -> None:
        # The container is closed by now, and with it the IOMMU's mapping.
        if self.memfd >= 0:
            os.close(self.memfd)
            self.memfd = -1
        self._mapped = None

    def _open_device(self) -> None:
        name = bytearray(self.function.address.encode() + b"\0")  # of bytes it returns a copy
        self.device = fcntl.ioctl(self._group, _GET_DEVICE, name)
        os.set_inheritable(self.device, False)

    def _close_device(self) -> None:
        if self.device >= 0:
            os.close(self.device)
            self.device = -1


class Device:
    """The function in its driver's process: ``registers`` and ``memory``.

    ``device`` and ``memfd`` are the owner's descriptors, and stay its. ``memory`` is the window,
    of ``size`` bytes, that the function finds at `BASE`.
    """

    def __init__(self, device: int, memfd: int, size: int) -> None:
        self._device = device
        self._size, self._offset = self._region(_BAR0)
        self._registers = mmap.mmap(device, self._size, offset=self._offset) if memfd >= 0 else None
        self._memory = mmap.mmap(memfd, size) if memfd >= 0 else None

    def close(self) -> None:
        """Let go of registers and window; arrays and registers made from them have to be gone.

        The kernel takes a function back only when nobody has its registers mapped.
        """
        self._registers = self._memory = None

    @property
    def memory(self) -> mmap.mmap:
        """The window."""
        assert self._memory is not None
        return self._memory

    def read(self, offset: int, words: int = 1) -> int:
        """A register of 4 bytes, or with ``words=2`` of 8, by single accesses of 4 bytes."""
        value = 0
        for place in range(words):
            value |= self._word(offset + 4 * place).value << (32 * place)
        return value

    def write(self, offset: int, value: int, words: int = 1) -> None:
        """Write a register of 4 or 8 bytes, the lower half first."""
        for place in range(words):
            self._word(offset + 4 * place).value = value >> (32 * place) & 0xFFFFFFFF

    def register(self, offset: int) -> ctypes.c_uint32:
        """A register whose ``value`` is written often: a doorbell."""
        return self._word(offset)

    def allow_dma(self) -> None:
        """Make it a bus master: from now on it may read and write its window."""
        self._set_command(_BUS_MASTER | _MEMORY, 0)

    def stop_dma(self) -> None:
        """It may not read or write any memory from now on."""
        self._set_command(0, _BUS_MASTER)

    def interrupts(self, eventfds: list[int]) -> None:
        """Have interrupt ``i`` (MSI-X) signal the ``i``-th eventfd."""
        size = 20 + 4 * len(eventfds)
        head = struct.pack("<IIIII", size, _EVENTFD_TRIGGER, _MSIX, 0, len(eventfds))
        fcntl.ioctl(self._device, _SET_IRQS, head + struct.pack(f"<{len(eventfds)}i", *eventfds))

    def _word(self, offset: int) -> ctypes.c_uint32:
        assert self._registers is not None
        return ctypes.c_uint32.from_buffer(self._registers, offset)

    def _region(self, index: int) -> tuple[int, int]:
        info = bytearray(_REGION.pack(_REGION.size, 0, index, 0, 0, 0))
        fcntl.ioctl(self._device, _REGION_INFO, info)
        _, _, _, _, size, offset = _REGION.unpack(info)
        return size, offset

    def _set_command(self, on: int, off: int) -> None:
        _, config = self._region(_CONFIG)
        (word,) = struct.unpack("<H", os.pread(self._device, 2, config + _COMMAND))
        os.pwrite(self._device, struct.pack("<H", (word | on) & ~off), config + _COMMAND)
