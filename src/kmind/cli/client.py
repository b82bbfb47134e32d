# SPDX-License-Identifier: Apache-2.0
"""Talking to the daemon: HTTP and JSON over its unix socket, by the standard library alone."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

from kmind.errors import KmindError, PrivilegeError, UsageError
from kmind.paths import socket_path
from kmind.util.foreign import foreign
from kmind.util.text import clean

__all__ = [
    "Client",
    "DaemonError",
    "kernel_name",
    "path_to",
]

_TIMEOUT_S = 75.0  # longer than the daemon waits for its supervisor
_ALLOWED = "only root and members of the group kmind may connect"


class DaemonError(KmindError):
    """Raised if no daemon runs."""

    exit_code = 3


def path_to(kind: str, name: str) -> str:
    """The API's path to an instance or a piece of advice.

    The target of an instance may be spelled as ``kmind load`` takes it, as in
    readahead@/dev/disk/by-id/x. UsageError for what cannot be a name of either.
    """
    module, at, target = name.partition("@")
    if kind == "instance" and module and at and "/" in target:
        name = f"{module}@{kernel_name(target)}"
    if "/" in name or not name:
        raise UsageError(f"there is no {kind} {name!r}", hint="names have no slashes")
    return f"/v1/{'instances' if kind == 'instance' else kind}/{name}"


def kernel_name(target: str) -> str:
    """Return the kernel's name of a target that may be given as a path.

    Links are followed here, in the user's folder and with the user's rights: the daemon
    follows none for its clients. Raises UsageError.
    """
    if "/" not in target:
        return target
    if target.startswith("cgroup:"):  # it may have gone, and its instance be there still
        return "cgroup:" + target.removeprefix("cgroup:").strip("/").replace("/", "!")
    from kmind.knobs import parse_target  # only here: it takes 30 ms, and most names have no path

    return parse_target(target).name


class Client:
    """Client of one daemon. Each call opens a connection of its own.

    Every method raises DaemonError if no daemon runs, PrivilegeError if it may not be
    reached, and KmindError with what the daemon says where it refuses.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or socket_path()

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """Return the resource at ``path``."""
        return self.call("GET", path, query=query)

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send a request; return the answer."""
        answer = self._send(method, path, body, query or {})
        content = _decoded(self._read(answer))
        if answer.status >= 400:
            _refuse(content)
        return content

    def follow(self, path: str = "/v1/events", **query: str) -> Iterator[dict[str, Any]]:
        """Iterate over the objects of a stream, until the daemon ends it."""
        answer = self._send("GET", path, None, query, timeout_s=None)
        if answer.status >= 400:
            _refuse(_decoded(self._read(answer)))
        with answer:
            while line := self._read(answer, line=True):
                yield _decoded(line)

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, str],
        timeout_s: float | None = _TIMEOUT_S,
    ) -> http.client.HTTPResponse:
        connection = _UnixConnection(self.path, timeout_s)
        url = quote(path, safe="/@") + (f"?{urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, url, data, headers | {"Connection": "close"})
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self._explain(error)

    def _read(self, answer: http.client.HTTPResponse, *, line: bool = False) -> bytes:
        try:
            return answer.readline() if line else answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._explain(error)

    def _explain(self, error: Exception) -> NoReturn:
        if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
            raise DaemonError(
                f"the daemon is not running: nobody listens at {self.path}",
                hint="start it with: systemctl start kmind, or: kmind daemon",
            ) from None
        if isinstance(error, PermissionError):
            raise PrivilegeError(
                f"cannot connect to {self.path}: {_ALLOWED}", hint="use sudo"
            ) from None
        if isinstance(error, TimeoutError):
            raise KmindError(
                f"the daemon did not answer within {_TIMEOUT_S:g} s", hint="see its log"
            ) from None
        # Closed before an answer: that is what it does to those it does not let in.
        if isinstance(error, ConnectionError) and os.geteuid() != 0:
            raise PrivilegeError(
                f"the daemon closed the connection: {_ALLOWED}", hint="use sudo"
            ) from None
        raise KmindError(
            f"the connection to the daemon broke off: {clean(str(error))}", hint="see: kmind status"
        ) from None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("kmind", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(str(self._path))
        except BaseException:
            self.sock.close()
            raise


def _decoded(text: bytes) -> dict[str, Any]:
    def wrong(why: str) -> KmindError:
        return KmindError(f"the daemon's answer is not JSON: {why}", hint="its log has more")

    with foreign(wrong):
        content = json.loads(text)
        if not isinstance(content, dict):
            raise wrong("it is not an object")
    return content


def _refuse(problem: Mapping[str, Any]) -> NoReturn:
    # The daemon's error, as it would have been raised here: its text and exit code.
    error = KmindError(str(problem.get("detail", "refused")), hint=str(problem.get("hint", "")))
    code = problem.get("exit_code", 1)
    error.exit_code = code if isinstance(code, int) and 0 < code < 256 else 1
    raise error
