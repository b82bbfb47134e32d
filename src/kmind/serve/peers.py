# SPDX-License-Identifier: Apache-2.0
"""The daemon's socket, and who may connect to it: root, and members of the group kmind.

The kernel says who connected (SO_PEERCRED and SO_PEERGROUPS, unix(7), socket(7)): the
credentials of the process at the time of its connect(2). Others are closed before a
byte of theirs is read. The socket file's mode keeps most of them out already.
"""

from __future__ import annotations

import array
import grp
import os
import socket
import struct
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmind.errors import KmindError, PrivilegeError
from kmind.util.files import make_folder

__all__ = ["GROUP", "Peer", "PeerSocket", "listen"]

GROUP = "kmind"
"""Members of this group may do what root may, but run commands as others; without it, root."""

_UCRED = struct.Struct("iII")  # struct ucred: pid, uid, gid
_SO_PEERGROUPS = 59  # include/uapi/asm-generic/socket.h, Linux 4.13
# Python's getsockopt(2) hands over at most 1,024 bytes; one with more groups is refused.
_GROUPS_BYTES = 1024
_BACKLOG = 64
_CONNECTIONS = 128


@dataclass(frozen=True)
class Peer:
    """A process at the other end of a unix socket."""

    pid: int
    uid: int
    groups: frozenset[int]

    @classmethod
    def of(cls, connection: socket.socket) -> Peer:
        """Return the peer of a connection. Raises OSError if the kernel does not tell."""
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, gid = _UCRED.unpack(raw)
        groups = array.array("I")
        if uid != 0:
            groups.frombytes(
                connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
            )
        return cls(pid, uid, frozenset({gid, *groups}))

    def may_connect(self) -> bool:
        """True if the peer is root, or in the group."""
        return self.uid == 0 or _group() in self.groups


class PeerSocket(socket.socket):
    """A listening unix socket that accepts only who may connect, and not too many.

    What it accepts has, for want of an address, the peer's uid and pid as its name.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._accepted: weakref.WeakSet[_Accepted] = weakref.WeakSet()
        self.refused = 0

    def accept(self) -> tuple[socket.socket, Any]:
        """As socket.accept; ConnectionAbortedError for one that was closed at once."""
        connection, address = super().accept()
        try:
            peer = Peer.of(connection)
            allowed = peer.may_connect()
        except OSError:
            allowed = False
        open_ones = sum(peer.fileno() >= 0 for peer in self._accepted)
        if not allowed or open_ones >= _CONNECTIONS:
            self.refused += 1
            connection.close()
            raise ConnectionAbortedError("this peer may not connect")
        accepted = _Accepted(fileno=connection.detach())
        accepted.peer = peer
        self._accepted.add(accepted)
        return accepted, address


class _Accepted(socket.socket):
    peer: Peer

    def getpeername(self) -> Any:
        return f"uid {self.peer.uid}", self.peer.pid


def listen(path: Path) -> PeerSocket:
    """Listen at ``path``: 0660 and the group's where there is one, else 0600.

    Call it only with the daemon's lock held: a socket that is left over is replaced.
    Raises KmindError where it cannot be made.
    """
    listener = PeerSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        make_folder(path.parent, 0o755)
        if path.is_socket():
            path.unlink()
        # Until the mode is set nobody else gets in, and then by the group only.
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        if (group := _group()) is not None:
            os.chown(path, -1, group)
            path.chmod(0o660)
        listener.listen(_BACKLOG)
    except PermissionError as error:
        listener.close()
        raise PrivilegeError(
            f"cannot listen at {path}: {error.strerror}", hint="run as root"
        ) from None
    except OSError as error:
        listener.close()
        raise KmindError(
            f"cannot listen at {path}: {error.strerror or error}", hint="give another --socket"
        ) from None
    return listener


def _group() -> int | None:
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None
