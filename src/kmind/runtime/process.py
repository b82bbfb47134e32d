# SPDX-License-Identifier: Apache-2.0
"""The extension's process, as its owner sees it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

import msgspec

from kmind.errors import KmindError
from kmind.runtime._config import ChildConfig
from kmind.runtime._text import LineReader

__all__ = ["ExtensionProcess"]

_READ_AT_ONCE = 16384


class ExtensionProcess:
    """One child. It reads what ``config`` says, and dies when its parent does.

    ``pid_fd`` is readable when it has ended, ``log_fd`` when it has printed something.
    """

    def __init__(self, config: ChildConfig) -> None:
        from_here, to_child = os.pipe()
        log_fd, log_end = os.pipe()
        os.set_blocking(log_fd, False)
        try:
            # A session of its own: Ctrl-C at the terminal is for the owner alone.
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-m", "kmind.runtime.child", str(from_here)],
                stdin=subprocess.DEVNULL,
                stdout=log_end,
                stderr=log_end,
                pass_fds=(from_here, config.arena, config.doorbell),
                cwd="/",
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            os.close(to_child)
            os.close(log_fd)
            raise KmindError(f"cannot start the extension: {error.strerror}") from None
        finally:
            os.close(from_here)
            os.close(log_end)
        self.log_fd = log_fd
        self.pid_fd = os.pidfd_open(self._process.pid)
        self._lines = LineReader(time.monotonic)
        # It may have died already: then its exit status tells.
        with contextlib.suppress(BrokenPipeError), os.fdopen(to_child, "wb") as pipe:
            pipe.write(msgspec.json.encode(config))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ended(self) -> int | None:
        """Its exit status (negative: the signal that killed it), or None while it runs."""
        return self._process.poll()

    def read_log(self) -> list[str]:
        """Lines that it printed since the last call; cleaned, and at a bounded rate."""
        try:
            return self._lines.feed(os.read(self.log_fd, _READ_AT_ONCE))
        except BlockingIOError:
            return []

    def close(self) -> list[str]:
        """Kill it if it runs, and return its last lines. Safe to repeat."""
        if self.log_fd < 0:
            return []
        self._process.kill()
        self._process.wait()
        lines = [*self.read_log(), *self._lines.close()]
        os.close(self.log_fd)
        os.close(self.pid_fd)
        self.log_fd = self.pid_fd = -1
        return lines


def _environment() -> dict[str, str]:
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        # The same modules as here; the interpreter adds nothing of its own in front.
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONDONTWRITEBYTECODE": "1",
        # Threads of numeric libraries could not be started after the drop.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
