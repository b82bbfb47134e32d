# SPDX-License-Identifier: Apache-2.0
"""Peers that may connect, by the kernel's word on them."""

import contextlib
import grp
import os
import socket
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kmind.cli.client import Client
from kmind.errors import KmindError
from kmind.serve import peers
from kmind.serve.peers import Peer, listen

if TYPE_CHECKING:
    from serve.conftest import Served

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="takes other users' ids, as only root may")
NOBODY = 65534


def as_user(uid: int, gid: int, groups: list[int], call: Callable[[], int]) -> int:
    """Return the result of ``call`` in a child with these ids."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            os._exit(call())
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def connect(path: Path) -> int:
    """0 if a request is answered, 1 if the file may not be opened, 2 if one is closed at once."""
    with socket.socket(socket.AF_UNIX) as out:
        out.settimeout(10)
        try:
            out.connect(str(path))
            out.sendall(b"GET /v1/health HTTP/1.1\r\nHost: a\r\n\r\n")
            return 0 if out.recv(4096) else 2
        except PermissionError:
            return 1
        except (BrokenPipeError, ConnectionResetError):
            return 2


def open_up(path: Path) -> None:
    """Let everybody reach the socket, so that only the credentials keep them out."""
    path.chmod(0o666)
    for folder in path.parents[:3]:
        if str(folder) not in ("/", "/tmp"):
            folder.chmod(0o755)


def some_group() -> grp.struct_group:
    return next(each for each in grp.getgrall() if each.gr_gid not in (0, NOBODY))


@ROOT
def test_without_the_group_the_socket_is_its_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "GROUP", "kmind-no-such-group")
    listener = listen(tmp_path / "s")
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
    listener.close()


@ROOT
def test_with_the_group_it_is_the_groups_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "GROUP", some_group().gr_name)
    listener = listen(tmp_path / "s")
    found = (tmp_path / "s").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, some_group().gr_gid)
    listener.close()


@ROOT
def test_others_are_closed_at_once(served: "Served") -> None:
    assert as_user(NOBODY, NOBODY, [], lambda: connect(served.path)) == 1
    open_up(served.path)
    assert as_user(NOBODY, NOBODY, [], lambda: connect(served.path)) == 2
    assert served.listener.refused == 1
    assert connect(served.path) == 0


@ROOT
def test_members_of_the_group_may(served: "Served", monkeypatch: pytest.MonkeyPatch) -> None:
    group = some_group()
    monkeypatch.setattr(peers, "GROUP", group.gr_name)
    open_up(served.path)
    assert as_user(NOBODY, group.gr_gid, [], lambda: connect(served.path)) == 0
    assert as_user(NOBODY, NOBODY, [7777, group.gr_gid], lambda: connect(served.path)) == 0
    assert as_user(NOBODY, NOBODY, [7777], lambda: connect(served.path)) == 2
    # The kernel tells of 256 groups in what Python asks it with; more are not let in.
    many = [*range(10_000, 10_400), group.gr_gid]
    assert as_user(NOBODY, NOBODY, many, lambda: connect(served.path)) == 2


@ROOT
def test_the_client_of_somebody_else_gets_exit_code_77(served: "Served") -> None:
    def ask() -> int:
        try:
            Client(served.path).get("/v1/health")
        except KmindError as error:
            return error.exit_code
        return 0

    assert as_user(NOBODY, NOBODY, [], ask) == 77
    open_up(served.path)
    assert as_user(NOBODY, NOBODY, [], ask) == 77


def test_there_are_not_too_many_connections(served: "Served") -> None:
    held = []
    for _ in range(200):
        one = socket.socket(socket.AF_UNIX)
        one.settimeout(10)
        one.connect(str(served.path))
        held.append(one)
    # The backlog is worked off in order: once the last is answered or closed, all were looked at.
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        held[-1].sendall(b"GET /v1/health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert held[-1].recv(4096) == b""
    for each in held:
        each.close()
    deadline = threading.Event()
    for _ in range(200):
        if connect(served.path) == 0:
            return
        deadline.wait(0.05)
    pytest.fail("nobody is let in any more")


def test_peer_is_this_process() -> None:
    left, right = socket.socketpair()
    with left, right:
        peer = Peer.of(left)
        assert (peer.pid, peer.uid) == (os.getpid(), os.getuid())
        assert os.getgid() in peer.groups


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(KmindError, match="cannot listen"):
        listen(path)
    assert path.read_text() == "mine"
