# SPDX-License-Identifier: Apache-2.0
"""Attacks on a daemon's socket: requests, and connections that are left unanswered."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kmind.errors import KmindError

__all__ = ["Connection", "asking_in_a_loop", "server"]

_ANSWER_S = 120.0
_METRIC = b'{"status":"success","data":{"resultType":"scalar","result":[0,"1"]}}'
_REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(_METRIC)


class Connection(http.client.HTTPConnection):
    """One connection to a daemon's socket, kept open."""

    def __init__(self, path: Path) -> None:
        super().__init__("kmind", timeout=_ANSWER_S)
        self._path = path

    def connect(self) -> None:
        """Open it."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_ANSWER_S)
        self.sock.connect(str(self._path))

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a request; the answer. Raises KmindError where that is a refusal."""
        text = json.dumps(body) if body is not None else None
        self.request(method, path, text, {"Content-Type": "application/json"} if text else {})
        reply = self.getresponse()
        found: dict[str, Any] = json.loads(reply.read())
        if reply.status >= 400:
            raise KmindError(f"{method} {path}: {found.get('detail')}")
        return found


@contextmanager
def asking_in_a_loop(path: Path, clients: int, what: str) -> Iterator[list[int]]:
    """So many clients that ask for the same again and again; answers of each so far."""
    done = threading.Event()
    answers = [0] * clients

    def ask(number: int) -> None:
        connection = Connection(path)
        while not done.is_set():
            # Refused because too many wait: it asks again at once.
            with suppress(KmindError):
                connection.ask("GET", what)
            answers[number] += 1
        connection.close()

    threads = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(clients)]
    for each in threads:
        each.start()
    try:
        yield answers
    finally:
        done.set()
        for each in threads:
            each.join()


@contextmanager
def server(*, answers: bool) -> Iterator[int]:
    """A Prometheus server's port: it accepts, and ``answers`` 1 or never says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        held: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    held.append(connection)
                    if answers:
                        connection.recv(65536)
                        connection.sendall(_REPLY + _METRIC)
                        connection.close()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for each in held:
                each.close()
