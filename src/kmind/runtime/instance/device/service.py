# SPDX-License-Identifier: Apache-2.0
"""The device of a driver: it appears once the driver's heart beats, and ends with the instance.

The owner holds the connection, so requests wait while there is no process that serves them. What
waits for the driver is done in a thread, and has a deadline: see ``LoopDisk``.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kmind.driver.disk import LoopDisk, no_server
from kmind.driver.fuse.connection import Connection
from kmind.driver.loop import LoopDevice
from kmind.errors import KmindError
from kmind.extension import Manifest, Value
from kmind.runtime.instance.device.lease import DeviceLease
from kmind.runtime.instance.device.state import DeviceState
from kmind.runtime.instance.device.task import Task
from kmind.runtime.sandbox.config import DeviceEntry
from kmind.runtime.service import Service
from kmind.util.descriptors import take_descriptor

__all__ = ["DeviceService"]

_END_S = 5.0
# A process that dies again and again, and answers nothing in between, is not started again; nor
# one that dies oftener than once a second in the long run.
_VAIN = 3
_RESTARTS, _PER_S = 60, 1.0


class DeviceService(Service):
    """One instance's device: ``open`` it, start a server for its ``entry``, wait for ``ready``.

    ``folder`` has the locks of names, ``log`` is told a line, ``now`` is in seconds.
    """

    def __init__(
        self,
        name: str,
        manifest: Manifest,
        *,
        folder: Path,
        log: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        assert manifest.driver is not None, "of drivers alone"
        self._name = name
        self._part = manifest.driver
        self._ready_agent = manifest.agent is None
        self._folder = folder
        self._log = log
        self._now = now
        self._disk: LoopDisk | None = None
        self._lease: DeviceLease | None = None
        self._memory = -1
        self._given: DeviceEntry | None = None
        self._task: Task | None = None
        self._failed = ""
        self._restarts = 0
        self._recent: deque[float] = deque(maxlen=_RESTARTS)
        self._vain = 0
        self._completed = 0

    # Starting

    def open(self, params: Mapping[str, Value]) -> None:
        """Take the name, the memory and a connection; nothing appears yet. Raises KmindError."""
        self._failed = ""
        try:
            self._lease = self._lease or DeviceLease(self._folder, self._name)
            if self._part.memory and self._memory < 0:
                self._memory = _make_memory(int(params[self._part.memory]) << 20)
            self._disk = LoopDisk(
                self._name, no_server, max_io=self._part.max_io, depth=self._part.depth
            )
            self._disk.connect()
        except BaseException:
            self.stop("")
            raise

    @property
    def constants(self) -> dict[str, int]:
        """Constants of the ready agent, which watches this connection; of another one none."""
        if not self._ready_agent:
            return {}
        return {"connection": self._connection.number, "stall_ms": self._part.stall_ms}

    def entry(self) -> DeviceEntry:
        """Return what the process that serves it is given."""
        connection = self._connection
        assert self._lease is not None
        self._given = DeviceEntry(
            connection=connection.descriptor,
            memory=self._memory,
            lease=self._lease.descriptor,
            max_io=connection.max_io,
            depth=connection.depth,
        )
        return self._given

    def ready(self) -> bool:
        """Return true once the device is there; a process serves by now. Raises KmindError."""
        disk = self._opened
        if self._task is None:
            if disk.device is not None:
                return True
            self._task = Task(disk.attach)
        if not self._task.done:
            return False
        task, self._task = self._task, None
        task.result()
        return True

    # Recovering

    def may_recover(self) -> bool:
        """True if another process may go on with what the last one left."""
        if not self._part.recovers or self._failed or self._disk is None or not self._disk.device:
            return False
        now, completed = self._now(), self._completions()
        self._vain = self._vain + 1 if completed == self._completed else 0
        self._completed = completed
        if self._vain >= _VAIN:
            return False
        while self._recent and now - self._recent[0] > _RESTARTS / _PER_S:
            self._recent.popleft()
        return len(self._recent) < _RESTARTS

    def recover(self) -> None:
        """Have the kernel send again what a dead process left; before the next one starts."""
        self._recent.append(self._now())
        self._restarts += 1
        self._connection.resend()

    def reopen(self, params: Mapping[str, Value]) -> None:
        """Make a new device in place of one that has failed; else nothing. Raises KmindError."""
        if self._disk is None or self._failed:
            self._close(force=True)
            self.open(params)

    def renew(self) -> None:
        """Get ready for another process that the admin asked for. Raises KmindError."""
        self._vain = 0
        if self._opened.device is not None:  # else nobody has served it so far
            self._connection.resend()

    def check_replayable(self) -> None:
        """Raise KmindError if another process cannot go on, as requests may not be done twice."""
        if self._part.replay != "safe" and not self._failed:
            raise KmindError(
                f"{self._name} is serving, and its requests may not be done twice",
                hint=f"kmind unload {self._name}, and load it again",
            )

    def fail(self, why: str) -> None:
        """End all of its I/O with EIO, now and later; the device stays until it is ended."""
        if self._disk is not None and not self._failed:
            self._failed = why
            with suppress(KmindError, OSError):
                self._connection.abort()

    # Ending

    def begin_close(self) -> None:
        """Begin to detach the device, if nobody uses it; then wait for ``closed``."""
        if self._disk is not None and self._task is None:
            self._task = Task(self._disk.close)

    def closed(self) -> bool:
        """Return true once it is detached. Raises KmindError, which says who uses it."""
        if self._disk is None or self._task is None:
            return True
        if not self._task.done:
            return False
        task, self._task = self._task, None
        task.result()
        self._disk = None
        return True

    def stop(self, why: str) -> None:
        """End the device, by force where it is in use, and free its name. Safe to repeat."""
        self._close(force=True)
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1
        if self._lease:
            self._lease.release()
            self._lease = None

    def _close(self, *, force: bool) -> None:
        disk, self._disk = self._disk, None
        task, self._task = self._task, None
        if disk is None:
            return
        with suppress(KmindError, OSError, AssertionError):  # it may be closed by now
            disk.connection.abort()  # so that what is under way ends
        if task and not task.wait(_END_S):
            self._log(f"the device of {self._name} does not end; it is left to the kernel")
            return
        ending = Task(lambda: disk.close(force=force))
        if not ending.wait(_END_S):
            self._log(f"the device of {self._name} does not end; it is left to the kernel")
            return
        try:
            ending.result()
        except (KmindError, OSError) as error:
            self._log(f"the device of {self._name}: {error}")

    # Handing on

    def state(self) -> DeviceState | None:
        """Return what ``adopt`` takes; None while there is no device."""
        if self._disk is None or self._disk.device is None or self._given is None:
            return None
        device = self._disk.device
        return DeviceState(
            entry=self._given,
            number=self._connection.number,
            loop=device.number,
            mark=device.mark.decode(),
            failed=self._failed,
            restarts=self._restarts,
        )

    def adopt(self, state: DeviceState | None, pid: int) -> None:
        """Go on with a device that another process owned. Raises KmindError."""
        if state is None:
            raise KmindError(f"the device of {self._name} was not there yet")
        taken: list[int] = []
        try:
            entry = state.entry
            for number in (entry.connection, entry.lease, entry.memory):
                taken.append(take_descriptor(pid, number) if number >= 0 else -1)
        except OSError as error:
            for descriptor in taken:
                if descriptor >= 0:
                    os.close(descriptor)
            raise KmindError(
                f"the descriptors of {self._name} cannot be had: {error.strerror}"
            ) from None
        held, lease, self._memory = taken
        connection = Connection.adopt(held, state.number, max_io=entry.max_io, depth=entry.depth)
        device = LoopDevice(state.loop, state.mark.encode())
        self._disk = LoopDisk.adopt(self._name, connection, device)
        self._lease = DeviceLease.adopt(self._folder, self._name, lease)
        self._given, self._failed, self._restarts = entry, state.failed, state.restarts

    def let_go(self) -> None:
        """Leave device and server to a later owner."""
        disk, self._disk = self._disk, None
        if disk is not None:
            disk.connection.close()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1
        if self._lease:
            self._lease.let_go()
            self._lease = None

    # Telling

    @property
    def path(self) -> str:
        """The device's file, or "" while there is none."""
        return str(self._disk.path) if self._disk and self._disk.device else ""

    def status(self) -> dict[str, Any]:
        """Return the device's file, its transport, and how it fares."""
        state = "failed" if self._failed else "serving" if self.path else "starting"
        return {
            "device": {
                "path": self.path,
                "kind": self._part.kind,
                "transport": "loop",
                "state": state,
                "on_failure": self._part.on_failure,
                "restarts": self._restarts,
            }
        }

    @property
    def _opened(self) -> LoopDisk:
        if self._disk is None:
            raise KmindError(f"the device of {self._name} is not open")
        return self._disk

    @property
    def _connection(self) -> Connection:
        return self._opened.connection

    def _completions(self) -> int:
        # What the kernel has seen answered: it may be an error, but it is an end.
        with suppress(OSError, ValueError, IndexError):
            fields = Path(f"/sys/block/{Path(self.path).name}/stat").read_text().split()
            return sum(int(fields[column]) for column in (0, 4, 11, 15))
        return self._completed


def _make_memory(size: int) -> int:
    # Of a fixed size: what was granted can be neither enlarged nor taken away under the driver.
    memory = os.memfd_create("kmind-driver", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memory, size)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except OSError as error:
        os.close(memory)
        raise KmindError(f"cannot set {size >> 20} MiB aside: {error.strerror}") from None
    return memory
