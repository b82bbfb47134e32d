# SPDX-License-Identifier: Apache-2.0
"""The extension's process, as its owner sees it: started by it, or taken over."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import sys
import time
from pathlib import Path

import msgspec

import kmind
from kmind.errors import KmindError
from kmind.runtime.sandbox.config import THREADS, ChildConfig
from kmind.runtime.sandbox.log_reader import LineReader
from kmind.util import procfs

__all__ = ["ENDED_UNSEEN", "ExtensionProcess"]

ENDED_UNSEEN = 1 << 16
"""Result of ``ended`` if another process took the exit status: no valid status."""

_READ_AT_ONCE = 16384
_KILL_S = 10.0


class ExtensionProcess:
    """One extension's process, started as ``config`` says.

    ``pid_fd`` is readable when it has ended, ``log_fd`` when it has printed something;
    ``heard`` counts the bytes that were read of that.
    Raises KmindError if it cannot be started. One thread may use it.
    """

    def __init__(self, config: ChildConfig) -> None:
        log_fd, log_end = _open_log(config.log)
        from_here, to_child = os.pipe()
        try:
            pid = _spawn(config, from_here, log_end)
        except OSError as error:
            os.close(to_child)
            os.close(log_fd)
            raise KmindError(f"cannot start the extension: {error.strerror}") from None
        finally:
            os.close(from_here)
            os.close(log_end)
        self._hold(pid, os.pidfd_open(pid), log_fd, config.log)
        # It may have died already: then its exit status tells.
        with contextlib.suppress(BrokenPipeError), os.fdopen(to_child, "wb") as pipe:
            pipe.write(msgspec.json.encode(config))

    @classmethod
    def adopt(cls, pid: int, start_time: int, log_path: str) -> ExtensionProcess:
        """Take over a kept process, that another owner started or that this one let go.

        ``start_time`` tells it from a later one with the same id. Raises KmindError if
        it runs no more, or its log is gone.
        """
        try:
            pid_fd = os.pidfd_open(pid)
        except OSError:
            raise KmindError(f"process {pid} has ended") from None
        # Asked with the descriptor in hand: from here on the id stays the same process's.
        if procfs.start_time(pid) != start_time:
            os.close(pid_fd)
            raise KmindError(f"process {pid} has ended, and another has its id now")
        try:
            log_fd = os.open(log_path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            os.close(pid_fd)
            raise KmindError(f"the log {log_path} is lost: {error.strerror}") from None
        process = cls.__new__(cls)
        process._hold(pid, pid_fd, log_fd, log_path)
        return process

    def _hold(self, pid: int, pid_fd: int, log_fd: int, log_path: str) -> None:
        self.pid = pid
        self.start_time = procfs.start_time(pid) or 0
        self.pid_fd = pid_fd
        self.log_fd = log_fd
        self._log_path = log_path
        self.heard = 0
        self._lines = LineReader(time.monotonic)
        self._status: int | None = None

    def ended(self) -> int | None:
        """Its exit status (negative: the signal that killed it), or None while it runs.

        ENDED_UNSEEN for one that is no child of this process.
        """
        if self._status is None and self.pid_fd >= 0 and _readable(self.pid_fd, 0):
            self._status = _reap(self.pid_fd)
        return self._status

    def read_log(self) -> list[str]:
        """Lines that it printed since the last call; cleaned, and at a bounded rate."""
        try:
            data = os.read(self.log_fd, _READ_AT_ONCE)
        except BlockingIOError:
            return []
        self.heard += len(data)
        return self._lines.feed(data)

    def receive_parts(self) -> list[bytes]:
        """Parts of reports among what was read since the last call; see ``_parts``."""
        parts = self._lines.parts[:]
        self._lines.parts.clear()
        return parts

    def release(self) -> list[str]:
        """Let go of it without ending it, and return its last lines. Safe to repeat.

        For one that was started with ``keep``: another owner may adopt it.
        """
        if self.log_fd < 0:
            return []
        lines = [*self.read_log(), *self._lines.close()]
        os.close(self.log_fd)
        os.close(self.pid_fd)
        self.log_fd = self.pid_fd = -1
        return lines

    def close(self) -> list[str]:
        """Kill it if it runs, and return its last lines. Safe to repeat."""
        if self.log_fd < 0:
            return []
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pid_fd, signal.SIGKILL)
        _readable(self.pid_fd, _KILL_S)
        self.ended()
        lines = self.release()
        if self._log_path:
            Path(self._log_path).unlink(missing_ok=True)
        return lines


def _spawn(config: ChildConfig, from_here: int, log_end: int) -> int:
    # posix_spawn, not fork: it costs the same however large the owner is, and is safe
    # beside its threads. Each descriptor is passed by name; a session of its own, so
    # that Ctrl-C at the terminal is for the owner alone.
    tables = (entry.fd for entry in config.tables)
    device = config.device.descriptors if config.device else ()
    passed = (from_here, config.arena, config.doorbell, *tables, *device)
    return os.posix_spawn(
        sys.executable,
        [
            # Without site: it runs what packages have put beside themselves (.pth files,
            # sitecustomize), and this process is root's still.
            *(sys.executable, "-S", "-s", "-P", "-m", "kmind.runtime.sandbox.child"),
            str(from_here),
            *config.cgroup.join,
        ],
        _environment(),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, log_end, 1),
            (os.POSIX_SPAWN_DUP2, log_end, 2),
            # Onto itself: the copy is not closed at exec.
            *((os.POSIX_SPAWN_DUP2, fd, fd) for fd in passed),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
    )


def _import_folders() -> list[str]:
    # ``python -m kmind`` puts the folder that it was started in first: nothing is imported from
    # there, and it may be the root, with which an extension would see the whole file system.
    own = str(Path(kmind.__file__).parent.parent)
    started_in = {"", "/", str(Path.cwd())} - {own}
    folders = [path for path in sys.path if path not in started_in]
    # Also where a hook brought kmind in, as that of an editable installation: none is in the child.
    return folders if own in folders else [*folders, own]


def _open_log(path: str) -> tuple[int, int]:
    # Returns the end to read from and the child's. A pipe ends with its owner; a FIFO
    # does not, and the child holds it for reading too, so that it is never without a
    # reader.
    if not path:
        ends = os.pipe()
        os.set_blocking(ends[0], False)
        return ends
    fifo = Path(path)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISFIFO(fifo.lstat().st_mode):
            raise KmindError(f"{path} is not a FIFO", hint="move it away: the log goes there")
        fifo.unlink()  # an earlier process may still hold it: its lines are not this one's
    try:
        fifo.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.mkfifo(fifo, 0o600)
        end = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise KmindError(f"cannot make the log {path}: {error.strerror}") from None
    return os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), end


def _readable(fd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _reap(pid_fd: int) -> int:
    try:
        result = os.waitid(os.P_PIDFD, pid_fd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return ENDED_UNSEEN
    if result is None:
        return ENDED_UNSEEN
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def _environment() -> dict[str, str]:
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        # The same modules as here; the interpreter adds nothing of its own in front.
        "PYTHONPATH": os.pathsep.join(_import_folders()),
        "PYTHONDONTWRITEBYTECODE": "1",
        **THREADS,
    }
    if sys.pycache_prefix:
        environment["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    return environment
