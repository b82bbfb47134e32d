# SPDX-License-Identifier: Apache-2.0
"""Network namespaces: opened by name or process, made anew, and entered by a thread for one call.

Source: setns(2), network_namespaces(7). A namespace lives as long as a process, a mount or a
descriptor holds it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

from kmind.errors import KmindError, NotSupportedError, PrivilegeError, UsageError

__all__ = ["Namespace"]

_NEWNET = 0x40000000
_NAMED = Path("/run/netns")  # where ip-netns(8) keeps them
_libc = ctypes.CDLL(None, use_errno=True)

_T = TypeVar("_T")


class Namespace:
    """A network namespace, held by the descriptor ``fd`` until it is closed."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def find(cls, name: str) -> Self:
        """Open one of ip-netns(8) by its name, or that of a process by its id.

        Raises UsageError if there is none.
        """
        if name.isascii() and name.isdigit():
            path = Path("/proc", name, "ns/net")
        elif name in ("", ".", "..") or "/" in name:
            raise UsageError(f"{name!r} is no name of a namespace", hint="see `ip netns list`")
        else:
            path = _NAMED / name
        return cls.at(path)

    @classmethod
    def at(cls, path: Path) -> Self:
        """Open one by its file. Raises UsageError if the file is none."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise UsageError(
                f"no network namespace at {path}: {error.strerror}", hint="see `ip netns list`"
            ) from None
        space = cls(fd)
        try:
            space.call(lambda: None)
        except UsageError:
            space.close()
            raise UsageError(f"{path} is no network namespace") from None
        except BaseException:
            space.close()
            raise
        return space

    @classmethod
    def new(cls) -> Self:
        """Make one without a name: it goes with its last holder."""
        return cls(_in_thread(_make))

    @classmethod
    def own(cls) -> Self:
        """The one that the calling thread is in."""
        return cls(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    def call(self, do: Callable[[], _T]) -> _T:
        """Call it in this namespace, in a thread of its own, and return what it returns.

        Sockets, interfaces and /proc/sys/net are those of the namespace there, and a socket stays
        in it afterwards.
        """

        def enter() -> _T:
            if _libc.setns(self.fd, _NEWNET):
                raise _refused("enter", ctypes.get_errno())
            return do()

        return _in_thread(enter)

    def close(self) -> None:
        """Let go of it. Safe to repeat."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _make() -> int:
    if _libc.unshare(_NEWNET):
        raise _refused("make", ctypes.get_errno())
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _refused(what: str, number: int) -> KmindError:
    why = f"cannot {what} a network namespace: {os.strerror(number)}"
    if isinstance(error := OSError(number, ""), PermissionError):
        return PrivilegeError(why, hint="run it as root")
    if error.errno == 22:  # EINVAL: the descriptor is something else's
        return UsageError(why)
    return NotSupportedError(why, hint="the kernel needs CONFIG_NET_NS")


def _in_thread(do: Callable[[], _T]) -> _T:
    # Namespaces are a thread's; this one ends with the call, so none is left in the wrong one.
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["value"] = do()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, name="namespace")
    thread.start()
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    value: _T = outcome["value"]
    return value
