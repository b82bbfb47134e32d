# SPDX-License-Identifier: Apache-2.0
"""The daemon as a process: one at a time, its socket, and its restart in place.

A restart is an exec: the process keeps its id, its lock and its listening socket, so
whoever connects meanwhile waits in line instead of being refused, and a service
manager sees one service that reloads.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from kmind.errors import KmindError
from kmind.serve.daemon import Daemon
from kmind.serve.lock import DaemonLock
from kmind.serve.notify import inherited, pass_on
from kmind.serve.peers import PeerSocket, listen

__all__ = ["replace", "run_daemon"]

_REPLACED_S = 60.0
_LOOK_S = 0.02


def run_daemon(
    make: Callable[[bool], Daemon],
    *,
    run_dir: Path,
    socket: Path,
    before_exec: Callable[[], None],
) -> None:
    """Run a daemon until it is told to end; restarts happen in here.

    ``make`` is told whether this is a restart in place. ``before_exec`` closes what must
    not be cut off half-way. Raises KmindError if a daemon runs already, or what made
    this one fail.
    """
    passed = inherited()
    lock = DaemonLock(run_dir, inherited=passed.get("lock"))
    try:
        daemon = make("lock" in passed)
        listener = PeerSocket(fileno=passed["api"]) if "api" in passed else listen(socket)
        spare = os.dup(listener.fileno())
        if daemon.run(listener) == "restart":
            before_exec()
            _exec({"api": spare, "lock": lock.fd})
        os.close(spare)
        # One that the service manager made is the service manager's.
        if "api" not in passed or "lock" in passed:
            with suppress(OSError):
                socket.unlink()
    finally:
        lock.release()


def replace(pid: int, started: Callable[[], float]) -> float:
    """Have the daemon of that pid restart in place; how long that took, in seconds.

    ``started`` asks the daemon when it began, and may raise KmindError while it cannot
    answer. Raises KmindError if it is not there again within a minute.
    """
    before = started()
    began = time.monotonic()
    try:
        handle = os.pidfd_open(pid)
        signal.pidfd_send_signal(handle, signal.SIGUSR2)
        os.close(handle)
    except ProcessLookupError:
        raise KmindError(f"the daemon, pid {pid}, has just ended", hint="start it again") from None
    while time.monotonic() < began + _REPLACED_S:
        time.sleep(_LOOK_S)
        with suppress(KmindError):
            if started() != before:
                return time.monotonic() - began
    raise KmindError(
        f"the daemon, pid {pid}, did not restart within {_REPLACED_S:g} s", hint="see its log"
    )


def _exec(descriptors: dict[str, int]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(sys.executable, sys.orig_argv, pass_on(descriptors))
    except OSError as error:
        raise KmindError(
            f"cannot restart: {sys.executable}: {error.strerror}; agents and extensions are left",
            hint="start the daemon again: it takes them over",
        ) from None
