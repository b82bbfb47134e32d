# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of child and its neighbours."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def status_of(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines())


READER = """\
import os
import socket
from kmind.extension import Extension


class Sample(Extension):
    def start(self):
        for name, attempt in {
            "read": lambda: open(self.context.params["allowed"]).read(),
            "list": lambda: os.listdir(os.path.dirname(self.context.params["allowed"])),
            "write": lambda: open(self.context.params["allowed"], "a"),
            "other": lambda: open("/etc/passwd"),
            "connect": self.connect,
            "unix": lambda: socket.socket(socket.AF_UNIX),
            "listen": lambda: socket.create_server(("127.0.0.1", 0)),
        }.items():
            try:
                self.context.log(f"{name}: {attempt()!r}")
            except OSError as error:
                self.context.log(f"{name}: refused, {error}")
            except LookupError as error:  # an encoding that only a network needs
                self.context.log(f"{name}: refused, {error}")
        self.context.log("all tried")

    def connect(self):
        port = self.context.params["port"]
        with socket.create_connection(("127.0.0.1", port), timeout=5) as end:
            return end.recv(5)

    def status(self):
        return {}
"""
