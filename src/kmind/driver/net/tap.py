# SPDX-License-Identifier: Apache-2.0
"""TAP interfaces: made in a namespace, set up, and given a carrier or not.

Each frame that is read or written has the kernel's virtio_net_hdr before it (`VNET`), which says
what was left to a network card: the checksum, and cutting an aggregated frame into packets.

Sources: Documentation/networking/tuntap.rst, include/uapi/linux/if_tun.h and virtio_net.h, and
netdevice(7).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from kmind.driver.net.namespace import Namespace
from kmind.errors import KmindError, NotSupportedError, PrivilegeError, UsageError

__all__ = ["ETHERNET", "VNET", "Address", "Tap"]

VNET = np.dtype(
    [
        ("flags", "u1"),
        ("gso_type", "u1"),
        ("hdr_len", "<u2"),
        ("gso_size", "<u2"),
        ("csum_start", "<u2"),
        ("csum_offset", "<u2"),
    ]
)
"""struct virtio_net_hdr, without num_buffers."""

ETHERNET = 14
"""Bytes of an Ethernet header."""

_DEVICE = Path("/dev/net/tun")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}")
_SETIFF, _SETOFFLOAD, _SETVNETHDRSZ, _SETCARRIER = 0x400454CA, 0x400454D0, 0x400454D8, 0x400454E2
_SETPERSIST = 0x400454CB
_TAP, _NO_PI, _VNET_HDR = 0x0002, 0x1000, 0x4000
_CSUM, _TSO4, _TSO6, _TSO_ECN = 0x01, 0x02, 0x04, 0x08
_GIFFLAGS, _SIFFLAGS, _SIFADDR, _SIFNETMASK = 0x8913, 0x8914, 0x8916, 0x891C
_SIFMTU, _SIFTXQLEN = 0x8922, 0x8943
_UP, _RUNNING = 0x1, 0x40
_QUEUE = 1024  # frames that wait in the kernel; more are dropped and counted there
_LEAST_MTU, _MOST_MTU = 68, 9000


@dataclass(frozen=True)
class Address:
    """An IPv4 address and the bits of its network: ``Address("10.0.0.1", 24)``."""

    text: str
    bits: int = 24

    @property
    def mask(self) -> str:
        """The same bits as a netmask."""
        return socket.inet_ntoa(struct.pack("!I", 0xFFFFFFFF << (32 - self.bits) & 0xFFFFFFFF))


class Tap:
    """An interface, ``name``, in a namespace; frames come and go by the descriptor ``fd``.

    It lives as long as somebody holds the descriptor: a process that dies takes it along, unless
    its owner holds it too, and gives it to the next one. With ``offload`` the kernel hands over
    aggregated TCP frames of up to 64 KiB, and leaves checksums out.
    """

    def __init__(self, name: str, fd: int, *, offload: bool, mtu: int) -> None:
        self.name, self.fd, self.offload, self.mtu = name, fd, offload, mtu

    @classmethod
    def open(
        cls, name: str, namespace: Namespace | None = None, *, offload: bool = True, mtu: int = 1500
    ) -> Self:
        """Make an interface, down and without an address.

        Raises UsageError for a name that is taken or none; NotSupportedError where the kernel has
        no TAP, PrivilegeError without root.
        """
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no interface name", hint="use up to 15 letters")
        if not _LEAST_MTU <= mtu <= _MOST_MTU:
            raise UsageError(f"an MTU of {mtu}", hint=f"use {_LEAST_MTU} to {_MOST_MTU}")

        def make() -> int:
            return _make(name, offload, mtu)

        fd = namespace.call(make) if namespace else make()
        return cls(name, fd, offload=offload, mtu=mtu)

    @property
    def frame_bytes(self) -> int:
        """The most that one read can return, the header before the frame included."""
        largest = 65536 + ETHERNET if self.offload else self.mtu + ETHERNET + 8  # two VLAN tags
        return VNET.itemsize + largest

    def carrier(self, on: bool) -> None:
        """Plug the cable in, or out: without a carrier the kernel sends nothing (Linux 5.0)."""
        _ioctl(self.fd, _SETCARRIER, struct.pack("i", on), "set the carrier")

    def persist(self, on: bool) -> None:
        """Let the interface stay, without a carrier, when nobody holds it; or not any more."""
        fcntl.ioctl(self.fd, _SETPERSIST, int(on))

    def close(self) -> None:
        """Let go of it. Safe to repeat."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def up(self, namespace: Namespace | None = None, address: Address | None = None) -> None:
        """Bring it up, with an address if one is given. ``namespace`` is where it was made."""

        def do() -> None:
            _up(self.name, address)

        if namespace:
            namespace.call(do)
        else:
            do()


def _make(name: str, offload: bool, mtu: int) -> int:
    try:
        # It must not be O_NONBLOCK: io_uring would not wait for a frame then.
        fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        raise PrivilegeError(f"cannot open {_DEVICE}", hint="run it as root") from None
    except OSError as error:
        raise NotSupportedError(
            f"cannot open {_DEVICE}: {error.strerror}", hint="the kernel needs CONFIG_TUN"
        ) from None
    try:
        _ioctl(fd, _SETIFF, _ifreq(name, "H", _TAP | _NO_PI | _VNET_HDR), f"make {name}")
        _ioctl(fd, _SETVNETHDRSZ, struct.pack("i", VNET.itemsize), "set the header's size")
        fcntl.ioctl(fd, _SETOFFLOAD, _CSUM | _TSO4 | _TSO6 | _TSO_ECN if offload else 0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            _ioctl(control.fileno(), _SIFMTU, _ifreq(name, "i", mtu), f"set the MTU {mtu}")
            _ioctl(control.fileno(), _SIFTXQLEN, _ifreq(name, "i", _QUEUE), "set the queue")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _up(name: str, address: Address | None) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fd = control.fileno()
        if address:
            for number, text in ((_SIFADDR, address.text), (_SIFNETMASK, address.mask)):
                request = _ifreq(name, "HH4s", socket.AF_INET, 0, socket.inet_aton(text))
                _ioctl(fd, number, request, f"give {name} the address {address.text}")
        flags = struct.unpack_from("H", fcntl.ioctl(fd, _GIFFLAGS, _ifreq(name, "H", 0)), 16)[0]
        _ioctl(fd, _SIFFLAGS, _ifreq(name, "H", flags | _UP | _RUNNING), f"bring {name} up")


def _ifreq(name: str, layout: str, *values: int | bytes) -> bytes:
    return (name.encode().ljust(16, b"\0") + struct.pack(layout, *values)).ljust(40, b"\0")


def _ioctl(fd: int, number: int, argument: bytes, what: str) -> None:
    try:
        fcntl.ioctl(fd, number, argument)
    except OSError as error:
        why = f"cannot {what}: {error.strerror}"
        with suppress(KeyError):
            raise {
                errno.EPERM: PrivilegeError(why, hint="run it as root"),
                errno.EBUSY: UsageError(why, hint="it is taken: choose another, or end its user"),
                errno.EINVAL: NotSupportedError(why, hint="this kernel does not know it"),
            }[error.errno or 0] from None
        raise KmindError(why) from None
