# SPDX-License-Identifier: Apache-2.0
"""A daemon of one's own, beside that of the machine: nothing of it is shared but the kernel.

It lives in a mount namespace with a bpf file system and a log folder of its own, and
keeps its files in a folder that its caller names. Knobs are those of the machine.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import kmind
from kmind.errors import KmindError

__all__ = ["DaemonHost"]

_NAMESPACE = """
mount --make-rprivate / && mount -t bpf -o mode=700 bpf /sys/fs/bpf &&
mount -t tmpfs tmpfs /var/log && echo ready && exec sleep infinity
"""
_UP_S = 30.0


class DaemonHost:
    """Stand-in for a machine, as far as a daemon is concerned; made by ``open``.

    ``daemon`` is the running process, ``socket`` the path where it listens.
    """

    def __init__(self, folder: Path, namespace: int) -> None:
        self.folder = folder
        self.socket = folder / "run/api.sock"
        self.daemon: subprocess.Popen[bytes] | None = None
        self.environment = {
            **os.environ,
            "KMIND_RUN_DIR": str(folder / "run"),
            "KMIND_STATE_DIR": str(folder / "state"),
            "PYTHONPATH": str(Path(kmind.__file__).parent.parent),
        }
        self._root = Path(f"/proc/{namespace}/root")
        self._enter = ["nsenter", f"--target={namespace}", "--mount"]

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator[Self]:
        """One for the length of the block; it leaves nothing behind. Needs root."""
        keeper = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _NAMESPACE], stdout=subprocess.PIPE, text=True
        )
        try:
            if keeper.stdout is None or keeper.stdout.readline() != "ready\n":
                raise KmindError("no mount namespace of its own", hint="run as root")
            host = cls(folder, keeper.pid)
            try:
                yield host
            finally:
                host.clear()
        finally:
            keeper.kill()
            keeper.wait()
            if keeper.stdout is not None:
                keeper.stdout.close()

    def command(self, *words: str, under: Sequence[str] = ()) -> list[str]:
        """A ``kmind`` command line that sees this host; ``under`` goes before it."""
        return [*self._enter, *under, sys.executable, "-m", "kmind", *words]

    def start(self, *words: str, under: Sequence[str] = ()) -> None:
        """Start the daemon and wait until it listens. KmindError if it does not.

        It loads nothing for the machine's own devices, unless ``words`` say --devices.
        """
        command = self.command("daemon", "--no-devices", *words, under=under)
        self.daemon = subprocess.Popen(command, env=self.environment)
        until = time.monotonic() + _UP_S
        while not self._listens():
            if self.daemon.poll() is not None or time.monotonic() > until:
                raise KmindError("the daemon did not start", hint="its messages stand above")
            time.sleep(0.02)

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; its exit code."""
        if self.daemon is None:
            raise KmindError("no daemon was started")
        self.daemon.send_signal(number)
        code = self.daemon.wait(60)
        self.daemon = None
        return code

    def kmind(self, *words: str) -> str:
        """Return the output of a command. Raises KmindError with its messages if it fails."""
        done = subprocess.run(
            self.command(*words),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise KmindError(f"kmind {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def cat(self, path: str) -> str:
        """Return the content of a file, read without any daemon."""
        return (self._root / path.lstrip("/")).read_text()

    def exists(self, path: str) -> bool:
        """True if the path exists."""
        return (self._root / path.lstrip("/")).exists()

    def clear(self) -> None:
        """End whatever a daemon, dead or alive, has left."""
        if self.daemon:
            self.end(signal.SIGKILL)
        if any((self.folder / "run/state").glob("*.json")):
            self.start("--at-start=restore")
            self.end()

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0
