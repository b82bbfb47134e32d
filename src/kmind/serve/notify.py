# SPDX-License-Identifier: Apache-2.0
"""The service manager's protocol: readiness, watchdog, and descriptors over an exec.

sd_notify(3): a datagram of ``NAME=value`` lines to ``$NOTIFY_SOCKET``. Without one
nothing is sent. sd_listen_fds(3): descriptors from 3 on, named in the environment;
a hot restart hands the listening socket to itself the same way.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

__all__ = ["Notifier", "inherited", "pass_on"]

_FIRST_FD = 3  # SD_LISTEN_FDS_START


class Notifier:
    """Tells the service manager, if there is one, how the daemon does."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the NUL of the abstract namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = 0.0
        """The watchdog's period; 0 if there is none."""
        meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        with suppress(ValueError):
            self.watchdog_s = meant * int(environment.get("WATCHDOG_USEC", "0")) / 1e6

    def ready(self, status: str) -> None:
        """Service has begun, or begun again."""
        self._send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={status}")

    def reloading(self) -> None:
        """Service goes on, with what is read again; ``ready`` follows."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """The end has begun."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # The manager may be gone: it is told, never waited for.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto(text.encode(), self._address)


def inherited() -> dict[str, int]:
    """The descriptors that were passed to this process, by name; closed on exec from here."""
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return {}
    count = int(os.environ.pop("LISTEN_FDS", "0") or 0)
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    descriptors = {}
    for fd, name in zip(range(_FIRST_FD, _FIRST_FD + count), names, strict=False):
        os.set_inheritable(fd, False)
        descriptors[name] = fd
    return descriptors


def pass_on(descriptors: Mapping[str, int]) -> dict[str, str]:
    """Move descriptors to where the next image of this process finds them; its environment.

    Only an exec may follow: descriptors of those numbers are closed.
    """
    above = _FIRST_FD + len(descriptors)
    # First out of the way of each other.
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in descriptors.values()]
    for number, copy in enumerate(copies, _FIRST_FD):
        os.dup2(copy, number, inheritable=True)
    return {
        **os.environ,
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(descriptors)),
        "LISTEN_FDNAMES": ":".join(descriptors),
    }
