# SPDX-License-Identifier: Apache-2.0
"""Loop devices on an open file: attached, detached if nobody uses them, swept up after a crash.

Source: drivers/block/loop.c, include/uapi/linux/loop.h, loop(4).
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kmind.driver.fuse.tree import FILE
from kmind.driver.holders import connection_is_held, holders
from kmind.errors import KmindError, NotSupportedError

__all__ = ["LoopDevice", "sweep"]

_CLR_FD, _SET_STATUS, _GET_STATUS, _CONFIGURE = 0x4C01, 0x4C04, 0x4C05, 0x4C0A
_GET_FREE = 0x4C82
_AUTOCLEAR, _DIRECT_IO = 4, 16
_MARK = "kmind:"
_TRIES = 16  # of taking a free device, which others may take at the same time
_PAUSE = 0.02  # s, between two tries

_INFO = np.dtype(
    [
        ("device", "<u8"),
        ("inode", "<u8"),
        ("", "V24"),
        ("number", "<u4"),
        ("", "V8"),
        ("flags", "<u4"),
        ("name", "S64"),
        ("", "V112"),
    ]
)
_CONFIG = np.dtype([("fd", "<u4"), ("block_size", "<u4"), ("info", _INFO), ("", "V64")])


@dataclass(frozen=True)
class LoopDevice:
    """A loop device that holds a file open; it stays until it is detached."""

    number: int
    mark: bytes
    """The name that the kernel keeps for us: a device of that number may be another's by now."""

    @property
    def path(self) -> Path:
        """The device's file in /dev."""
        return Path(f"/dev/loop{self.number}")

    @classmethod
    def attach(cls, file: int, name: str, *, block_size: int = 4096) -> LoopDevice:
        """Put a free loop device on an open file, with direct I/O and no scan for partitions.

        ``block_size`` is 512 to 4096 bytes. Raises NotSupportedError without loop devices.
        """
        config = np.zeros((), _CONFIG)
        config["fd"], config["block_size"] = file, block_size
        config["info"]["flags"] = _DIRECT_IO
        mark = f"{_MARK}{os.getpid()}:{name}".encode()[:63]
        config["info"]["name"] = mark
        for _ in range(_TRIES):
            device = cls(_free_number(), mark)
            try:
                with _Opened(device.path, os.O_RDWR) as opened:
                    fcntl.ioctl(opened, _CONFIGURE, config.tobytes())
            except OSError as error:
                if error.errno == errno.EBUSY:
                    continue  # somebody else was faster
                raise NotSupportedError(
                    f"cannot attach {device.path}: {error.strerror}",
                    hint="use a kernel with loop devices (5.8), as root",
                ) from None
            return device
        raise KmindError("every free loop device was taken by somebody else", hint="try again")

    def detach(self, *, force: bool = False, timeout: float = 2) -> bool:
        """Detach the device; True if it is free now.

        Raises KmindError, which says by whom, while it is in use after ``timeout`` seconds. With
        ``force`` the kernel frees it instead when the last one closes it, and this is False.
        """
        deadline = time.monotonic() + timeout
        while not (free := self._clear(keep_if_used=not force)):
            if force or time.monotonic() > deadline:
                break
            time.sleep(_PAUSE)  # somebody passes by, udev say
        if not free and not force:
            who = ", ".join(holders(self.path.name)) or "somebody unknown"
            raise KmindError(f"{self.path} is in use by {who}", hint="close it there first")
        return free

    def _clear(self, *, keep_if_used: bool) -> bool:
        exclusive = os.O_EXCL if keep_if_used else 0
        try:
            with _Opened(self.path, os.O_RDONLY | exclusive) as opened:
                info = _status(opened)
                if info is None or info["name"].item() != self.mark:
                    return True
                fcntl.ioctl(opened, _CLR_FD)
                # With another opener the kernel would clear it at the last close (loop_clr_fd).
                info = _status(opened)
                if info is None:
                    return True
                if keep_if_used:
                    info["flags"] &= np.uint32(~_AUTOCLEAR & 0xFFFFFFFF)
                    fcntl.ioctl(opened, _SET_STATUS, info.tobytes())
                return False
        except OSError as error:
            if error.errno == errno.ENXIO:
                return True  # it is attached to nothing
            if error.errno == errno.EBUSY:
                return False
            raise


def sweep() -> list[str]:
    """Detach what killed owners left: devices of ours whose connection nobody holds.

    Their I/O has failed since. One in use is freed when its last user closes it. Returns the
    devices' names.
    """
    swept = []
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # it went away by itself
            # Others' devices are not even opened.
            if not entry.read_text().startswith(f"/{FILE}"):
                continue
            name = entry.parts[3]
            with _Opened(Path("/dev") / name, os.O_RDONLY) as opened:
                info = _status(opened)
            if info is None or not info["name"].item().startswith(_MARK.encode()):
                continue
            if not connection_is_held(os.minor(int(info["device"]))):
                number = int(name.removeprefix("loop"))
                LoopDevice(number, info["name"].item()).detach(force=True)
                swept.append(name)
    return swept


class _Opened:
    """A device, open for the length of a block."""

    def __init__(self, path: Path, flags: int) -> None:
        self._descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _free_number() -> int:
    try:
        with _Opened(Path("/dev/loop-control"), os.O_RDWR) as control:
            return fcntl.ioctl(control, _GET_FREE)
    except OSError as error:
        raise NotSupportedError(
            f"cannot get a loop device: {error.strerror}",
            hint="use a kernel with loop devices, as root",
        ) from None


def _status(opened: int) -> np.ndarray[tuple[()], np.dtype[np.void]] | None:
    """The kernel's ``struct loop_info64``, or None of a device that is free."""
    data = bytearray(_INFO.itemsize)
    try:
        fcntl.ioctl(opened, _GET_STATUS, data)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
    return np.frombuffer(data, _INFO).reshape(())
