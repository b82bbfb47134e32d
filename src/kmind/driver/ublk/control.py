# SPDX-License-Identifier: Apache-2.0
"""A ublk device's life: made, started, handed to another server, stopped and deleted.

Each command has a deadline, for the kernel has none: a device that is stopped waits for its server.

The owner opens the server's file, so it is the owner's process that START names: later kernels
compare the two (ublk_validate_user_pid).

Source: Documentation/block/ublk.rst, drivers/block/ublk_drv.c.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.driver.block import BlockDriver, Op
from kmind.driver.ublk.layout import (
    CONTROL,
    INFO,
    MAX_DEPTH,
    PARAMS,
    Attribute,
    Command,
    Feature,
    State,
)
from kmind.errors import KmindError, NotSupportedError
from kmind.uring import Ring, prepare

__all__ = ["CONTROL_FILE", "UblkDevice"]

CONTROL_FILE = Path("/dev/ublk-control")
"""The file by which devices are made; it comes with the kernel's module ublk_drv."""

_ANY = 0xFFFFFFFF
_NO_QUEUE = 0xFFFF
_SECTOR = 512
_KINDS = 3  # basic and discard
_BUSY_PAUSE = 0.005  # s; the kernel is not through with a server that was killed
_RANGE_SECTORS = 1 << 23  # of one discard: 4 GiB
_FEATURES = Feature.CMD_IOCTL_ENCODE | Feature.USER_RECOVERY | Feature.USER_RECOVERY_REISSUE


class UblkDevice:
    """One device with one queue, /dev/ublkbN, which outlives its server and its owner.

    ``block_size`` is 512 to 4096 bytes, ``max_io`` the bytes of the largest request, in whole
    pages, ``depth`` how many are in flight. Requests of a killed server come again to the next one.
    Raises NotSupportedError where there is no ublk, and KmindError if a command is refused or takes
    over ``timeout`` seconds.
    """

    def __init__(
        self, *, block_size: int = 4096, max_io: int = 1 << 19, depth: int = 64, timeout: float = 5
    ) -> None:
        if not 1 <= depth <= MAX_DEPTH:
            raise KmindError(f"a queue of {depth} requests", hint=f"have 1 to {MAX_DEPTH}")
        self.block_size, self.max_io, self.depth = block_size, max_io, depth
        self._timeout = timeout
        try:
            self._control = os.open(CONTROL_FILE, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise NotSupportedError(
                f"cannot open {CONTROL_FILE}: {error.strerror}",
                hint="modprobe ublk_drv (Linux 6.6), as root",
            ) from None
        self._ring = Ring(4, big_sqe=True)
        self._asked = 0
        try:
            self._check_features()
            info = np.zeros(1, INFO)
            info["queues"], info["depth"], info["max_io"] = 1, depth, max_io
            info["device"], info["flags"] = _ANY, _FEATURES
            self._ask(Command.ADD, device=_ANY, buffer=info)
            self.number = int(info["device"][0])
        except BaseException:
            self._close()
            raise

    @property
    def path(self) -> Path:
        """The block device's file."""
        return Path(f"/dev/ublkb{self.number}")

    @property
    def server_path(self) -> Path:
        """The file that its server opens."""
        return Path(f"/dev/ublkc{self.number}")

    @property
    def state(self) -> State:
        """Its state, as the kernel says."""
        info = np.zeros(1, INFO)
        self._ask(Command.INFO, buffer=info)
        return State(int(info["state"][0]))

    def describe(self, driver: BlockDriver) -> None:
        """Tell the kernel of the driver's size and operations, before the device is started."""
        shift = self.block_size.bit_length() - 1
        params = np.zeros(1, PARAMS)
        params["length"], params["kinds"] = PARAMS.itemsize, _KINDS
        basic: Any = params["basic"]
        if Op.FLUSH in driver.operations:
            basic["attributes"] = Attribute.VOLATILE_CACHE
        for name in ("logical_shift", "physical_shift", "minimal_shift", "optimal_shift"):
            basic[name] = shift
        basic["max_sectors"] = self.max_io // _SECTOR
        basic["sectors"] = driver.size // _SECTOR
        discard: Any = params["discard"]
        discard["granularity"] = self.block_size
        discard["max_segments"] = 1
        if Op.DISCARD in driver.operations:
            discard["max_sectors"] = _RANGE_SECTORS
        if Op.WRITE_ZEROES in driver.operations:
            discard["max_zeroes_sectors"] = _RANGE_SECTORS
        self._ask(Command.SET_PARAMS, buffer=params)

    def start(self) -> None:
        """Make the block device appear. Its server has to serve by now."""
        self._ask(Command.START, data=os.getpid())

    def begin_recovery(self) -> None:
        """Have the device wait for another server; its last one has to be dead."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                self._ask(Command.START_RECOVERY)
            except KmindError as error:
                busy = isinstance(error.__cause__, OSError) and (
                    error.__cause__.errno == errno.EBUSY
                )
                if not busy or time.monotonic() > deadline:
                    raise
                time.sleep(_BUSY_PAUSE)
            else:
                return

    def end_recovery(self) -> None:
        """Go on with another server, which serves by now."""
        self._ask(Command.END_RECOVERY, data=os.getpid())

    def close(self) -> None:
        """Stop and delete the device: its I/O fails from now on. Safe to repeat.

        Its server has to be gone: the kernel waits for what that does not answer, without end.
        """
        if self._control < 0:
            return
        try:
            self._ask(Command.STOP)
            self._ask(Command.DELETE)
        finally:
            self._close()

    def _close(self) -> None:
        self._ring.close()
        os.close(self._control)
        self._control = -1

    def _check_features(self) -> None:
        features = np.zeros(1, np.uint64)
        self._ask(Command.FEATURES, device=_ANY, buffer=features)
        if missing := _FEATURES & ~Feature(int(features[0]) & int(_FEATURES)):
            raise NotSupportedError(
                f"this kernel's ublk has no {missing.name}", hint="use Linux 6.6 or later"
            )

    def _ask(
        self,
        command: Command,
        *,
        device: int | None = None,
        buffer: npt.NDArray[Any] | None = None,
        data: int = 0,
    ) -> None:
        words = np.zeros(1, CONTROL)
        words["device"] = self.number if device is None else device
        words["queue"], words["data"] = _NO_QUEUE, data
        if buffer is not None:
            words["address"], words["length"] = buffer.ctypes.data, buffer.nbytes
        wide = np.zeros((1, 80), np.uint8)  # control commands take entries of 128 bytes
        wide[0, : CONTROL.itemsize] = words.view(np.uint8)
        self._asked += 1
        self._ring.push(prepare.uring_cmd(self._control, int(command), self._asked, cmd=wide))
        result = self._answer(command)
        if result < 0:
            cause = OSError(-result, os.strerror(-result))
            raise KmindError(f"ublk refuses {command.name}: {cause.strerror}") from cause

    def _answer(self, command: Command) -> int:
        deadline = time.monotonic() + self._timeout
        while self._ring.submit(1, max(0.0, deadline - time.monotonic())):
            done = self._ring.reap()
            mine = done["res"][done["user_data"] == self._asked]  # or of one that was given up
            if len(mine):
                return int(mine[0])
        raise KmindError(
            f"ublk does not answer {command.name} in {self._timeout:g} s",
            hint="see whether its server answers",
        )
