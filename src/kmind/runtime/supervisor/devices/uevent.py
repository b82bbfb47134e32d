# SPDX-License-Identifier: Apache-2.0
"""Devices that come and go, as the kernel tells it: netlink, NETLINK_KOBJECT_UEVENT.

A message is ``ACTION@DEVPATH`` and then ``KEY=VALUE`` strings, each ended by a NUL
(lib/kobject_uevent.c). Group 1 is the kernel's; what another process sends there is
known by its port, which is 0 for the kernel alone (netlink(7)), and is not listened to.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from kmind.errors import KmindError, NotSupportedError, PrivilegeError
from kmind.extension import Manifest
from kmind.extension.discovery.conf import ModuleConf
from kmind.extension.manifest.alias import Alias

__all__ = ["Uevent", "UeventListener", "coldplug", "match", "parse_uevent", "present"]

_NETLINK_KOBJECT_UEVENT = 15  # include/uapi/linux/netlink.h
_KERNEL_GROUP = 1
_MOST = 8192  # UEVENT_BUFFER_SIZE in include/linux/kobject.h is 2048, without the first line
_BUFFER = 1 << 20
_SYSFS = Path("/sys")


@dataclass(frozen=True)
class Uevent:
    """One event. ``name`` is the device's directory in sysfs, as of ``block`` targets.

    ``action`` is ``"add"``, ``"remove"``, ``"change"``, ``"move"``, ``"online"``,
    ``"offline"``, ``"bind"`` or ``"unbind"``; ``properties`` are all that were sent.
    """

    action: str
    subsystem: str
    name: str
    properties: Mapping[str, str] = field(default_factory=dict)


def parse_uevent(message: bytes) -> Uevent | None:
    """The event that a message of the kernel tells; None if it is none of its messages."""
    head, _, rest = message.partition(b"\0")
    if b"@/" not in head:
        return None
    pairs = [text.decode("utf-8", "replace").partition("=") for text in rest.split(b"\0") if text]
    properties = {key: value for key, _, value in pairs}
    try:
        name = properties["DEVPATH"].rpartition("/")[2]
        return Uevent(properties["ACTION"], properties["SUBSYSTEM"], name, properties)
    except KeyError:
        return None


class UeventListener:
    """Hears from now on. Has a ``fileno``, so that a selector can wait for it.

    ``lost`` counts how often the kernel dropped events because nobody read them: ask
    ``present`` then. ``ignored`` counts messages that were not the kernel's. Raises
    NotSupportedError, or PrivilegeError, where it cannot listen.
    """

    def __init__(self) -> None:
        self.lost = 0
        self.ignored = 0
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                _NETLINK_KOBJECT_UEVENT,
            )
        except OSError as error:
            raise _refused(error) from None
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._socket.bind((0, _KERNEL_GROUP))
        except OSError as error:
            self._socket.close()
            raise _refused(error) from None

    def fileno(self) -> int:
        """The socket."""
        return self._socket.fileno()

    def read(self) -> list[Uevent]:
        """All events that wait, oldest first; never blocks."""
        events: list[Uevent] = []
        while True:
            try:
                message, _, flags, (port, _groups) = self._socket.recvmsg(_MOST)
            except BlockingIOError:
                return events
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise _refused(error) from None
                self.lost += 1
                continue
            event = None if port or flags & socket.MSG_TRUNC else parse_uevent(message)
            if event is None:
                self.ignored += 1
            else:
                events.append(event)

    def close(self) -> None:
        """Stop listening; may be repeated."""
        self._socket.close()

    def __enter__(self) -> UeventListener:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def present(subsystem: str, *, root: Path = _SYSFS) -> Iterator[Uevent]:
    """An ``add`` event for each device of a subsystem that is there now, by name."""
    for folder in (root / "class" / subsystem, root / "bus" / subsystem / "devices"):
        try:
            devices = sorted(folder.iterdir())
        except OSError:
            continue
        for device in devices:
            try:
                rows = (device / "uevent").read_text(errors="replace").splitlines()
            except OSError:
                continue  # it went meanwhile, or is none
            path = "/" + str(device.resolve().relative_to(root.resolve()))
            known = {"ACTION": "add", "DEVPATH": path, "SUBSYSTEM": subsystem}
            pairs = (row.partition("=") for row in rows)
            properties = known | {key: value for key, _, value in pairs}
            yield Uevent("add", subsystem, device.name, properties)


def match(conf: ModuleConf, manifests: Iterable[Manifest], event: Uevent) -> list[tuple[str, str]]:
    """Return the modules that the event asks for, each with its target; no blacklisted ones.

    The administrator's aliases come first, then those of the manifests. A module that works on a
    block device gets whole ones only, never a partition, and no hidden one.
    """
    known = {manifest.name: manifest for manifest in manifests}
    wanted = [(line.pattern, line.module) for line in conf.aliases]
    wanted += [
        (Alias.parse(text), manifest.name)
        for manifest in known.values()
        for text in manifest.aliases
    ]
    modules: dict[str, str] = {}
    for pattern, name in wanted:
        if name in modules or name not in known or conf.blacklisted(name):
            continue
        if not pattern.matches(event.subsystem, event.name, event.properties):
            continue
        if known[name].target.kind == "system":
            modules[name] = "system"
        elif event.subsystem == "block" and _is_disk(event.properties):
            modules[name] = event.name
    return list(modules.items())


def _is_disk(properties: Mapping[str, str]) -> bool:
    # Each device with a number tells it (dev_uevent, drivers/base/core.c): a hidden one, as a
    # path of an NVMe multipath disk is, has none.
    return properties.get("DEVTYPE") != "partition" and "MAJOR" in properties


def coldplug(conf: ModuleConf, manifests: Iterable[Manifest]) -> list[Uevent]:
    """Events for the devices that are there already, of all subsystems that an alias names.

    For a daemon's start, and after events were lost: ``match`` each of them.
    """
    wanted = {line.pattern.subsystem for line in conf.aliases}
    for manifest in manifests:
        wanted.update(Alias.parse(text).subsystem for text in manifest.aliases)
    return [event for subsystem in sorted(wanted) for event in present(subsystem)]


def _refused(error: OSError) -> KmindError:
    what = f"cannot listen to device events: {error.strerror}"
    hint = "nothing is loaded for a device by itself; load it by name"
    if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
        return NotSupportedError(what, hint=hint)
    if error.errno in (errno.EPERM, errno.EACCES):
        return PrivilegeError(what, hint=hint)
    return KmindError(what, hint=hint)
