# SPDX-License-Identifier: Apache-2.0
"""Runs smartctl on one disk at a time, and never on one that sleeps.

smartctl asks the disk for its power state before anything else (``-n standby``), and only reads: no
option here starts a self-test or changes a setting. The option is for ATA disks, and of late for
SCSI; NVMe disks have no state in which a read of the log would cost anything. Behind some bridges
the type must be given, or finding it out may wake the disk (smartctl(8)).
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock

from kmind.errors import NotSupportedError, UsageError
from kmind.health.smart.document import MOST_BYTES, SmartError
from kmind.health.smart.record import OLDEST, SmartRecord, read_record

__all__ = ["LIMIT_S", "SmartReader"]

LIMIT_S = 30.0
"""Longest time that smartctl is waited for; a healthy disk answers within one second, one that
retries a command or resets its link within some seven a command."""

_OPTIONS = (
    "--json",
    "--nocheck=standby",
    "--info",
    "--health",
    "--attributes",
    "--log=selftest",
    "--log=devstat",
)
_PLACES = "/usr/sbin:/usr/bin:/sbin:/bin"
_DEVICE = re.compile(r"/dev/[A-Za-z0-9_.:@+-]+(/[A-Za-z0-9_.:@+-]+)*")
_TYPE = re.compile(r"[A-Za-z0-9_+,/-]{1,40}")
_PATIENCE_S = 2.0  # for a process that was killed: one in a system call ends after it


class SmartReader:
    """Reads one disk at a time with smartctl. Threads may share it, and wait for each other.

    ``program`` is smartctl's path, by default the system's own; ``limit_s`` the time that it has
    for a disk, ``most`` the bytes that it may write.
    """

    def __init__(
        self, program: Path | None = None, *, limit_s: float = LIMIT_S, most: int = MOST_BYTES
    ) -> None:
        self._program = program
        self._limit_s = limit_s
        self._most = most
        self._lock = Lock()
        self._stuck: subprocess.Popen[bytes] | None = None

    def read(self, device: str, type: str = "") -> SmartRecord:
        """The record of ``device``, such as ``/dev/sda``; ``type`` is smartctl's ``-d``.

        Raises UsageError for words that are no device or type; NotSupportedError if there is no
        smartctl; SmartError if it hangs, is killed, floods, is too old, or writes no JSON.
        """
        if not _DEVICE.fullmatch(device) or ".." in device:
            raise UsageError(f"{device!r} is no device", hint="name it as /dev/sda or /dev/nvme0")
        if type and not _TYPE.fullmatch(type):
            raise UsageError(f"{type!r} is no type of smartctl's option -d")
        words = [self._find(), *_OPTIONS, *(["--device=" + type] if type else []), device]
        with self._lock:
            data, status = self._run(words, device)
        return _record(data, status, device)

    def _find(self) -> str:
        found = shutil.which(self._program or "smartctl", path=_PLACES)
        if found is None:
            where = f" at {self._program}" if self._program else ""
            raise NotSupportedError(
                f"there is no smartctl{where}", hint="install the package smartmontools"
            )
        return found

    def _run(self, words: list[str], device: str) -> tuple[bytes, int]:
        if self._stuck is not None:
            if self._stuck.poll() is None:
                raise SmartError(
                    f"{device} was not read: an earlier smartctl cannot be ended",
                    hint="its disk does not answer, see the kernel's log",
                )
            self._stuck = None
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"PATH": _PLACES, "LC_ALL": "C"},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise SmartError(f"smartctl cannot be started: {error.strerror}") from None
        try:
            data = self._collect(process, device)
        finally:
            self._end(process)
        return data, process.returncode

    def _collect(self, process: subprocess.Popen[bytes], device: str) -> bytes:
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        ready = select.poll()
        ready.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + self._limit_s
        data = bytearray()
        late = SmartError(
            f"{device} was not read: smartctl took longer than {self._limit_s:g} s",
            hint="the disk may hang, see the kernel's log",
        )
        while (left := deadline - time.monotonic()) > 0:
            if not ready.poll(left * 1000):
                continue
            chunk = os.read(descriptor, 1 << 16)
            data += chunk
            if len(data) > self._most:
                raise SmartError(f"{device} was not read: smartctl wrote over {self._most} bytes")
            if not chunk:
                if not _ended(process, deadline):
                    break
                return bytes(data)
        raise late

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        # The group: what smartctl has started ends with it. Its number is not another's yet, as
        # its first process was not waited for.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        assert process.stdout is not None
        process.stdout.close()
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._stuck = process


def _ended(process: subprocess.Popen[bytes], deadline: float) -> bool:
    """Wait until the process has ended, and leave its exit status; False if it has not."""
    descriptor = os.pidfd_open(process.pid)
    try:
        ready = select.poll()
        ready.register(descriptor, select.POLLIN)
        return bool(ready.poll(max(0.0, deadline - time.monotonic()) * 1000))
    finally:
        os.close(descriptor)


def _record(data: bytes, status: int, device: str) -> SmartRecord:
    if status < 0:
        raise SmartError(f"{device} was not read: smartctl was ended by signal {-status}")
    first = re.match(rb"smartctl (\d{1,3})\.(\d{1,3})", data)
    if first and (int(first[1]), int(first[2])) < OLDEST:
        words = f"{int(first[1])}.{int(first[2])}"
        raise SmartError(
            f"{device} was not read: smartctl {words} is too old", hint="7.0 or later is needed"
        )
    try:
        return read_record(data)
    except SmartError as error:
        text = f"{device} was not read: what smartctl wrote (exit status {status}) {error}"
        raise SmartError(text) from None
