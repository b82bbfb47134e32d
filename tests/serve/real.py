# SPDX-License-Identifier: Apache-2.0
"""The real daemon, in a mount namespace with a bpf file system and a log folder of its own.

So that no two tests, and no daemon of the machine, share pins. Everything else is real.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kmind
from kmind.cli.client import Client
from kmind.errors import KmindError

_NAMESPACE = """
mount --make-rprivate / && mount -t bpf bpf /sys/fs/bpf && mount -t tmpfs tmpfs /var/log &&
echo ready && exec sleep infinity
"""
_UP_S = 30


class Host:
    """A machine of the test's own, as far as kmind is concerned. ``daemon`` is what runs now."""

    def __init__(self, folder: Path, namespace: int) -> None:
        self.folder = folder
        self.client = Client(folder / "run/api.sock")
        self.daemon: subprocess.Popen[bytes] | None = None
        self.environment = {
            **os.environ,
            "KMIND_RUN_DIR": str(folder / "run"),
            "KMIND_STATE_DIR": str(folder / "state"),
            "PYTHONPATH": str(Path(kmind.__file__).parent.parent),
        }
        self._root = Path(f"/proc/{namespace}/root")
        self._enter = ["nsenter", f"--target={namespace}", "--mount"]

    def start(self, *words: str, under: Sequence[str] = ()) -> float:
        """Start the daemon and wait until it answers; when it began. ``under`` goes before it."""
        command = [*self._enter, *under, sys.executable, "-m", "kmind", "daemon", *words]
        self.daemon = subprocess.Popen(command, env=self.environment)
        until = time.monotonic() + _UP_S
        while time.monotonic() < until:
            assert self.daemon.poll() is None, "the daemon ended at once"
            try:
                return self.began()
            except KmindError:
                time.sleep(0.02)
        raise AssertionError("the daemon does not answer")

    def began(self) -> float:
        """When the daemon that answers now began."""
        health = self.client.get("/v1/health")
        assert self.daemon is not None
        assert health["pid"] == self.daemon.pid
        return float(health["started"])

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; its exit code."""
        assert self.daemon is not None
        self.daemon.send_signal(number)
        code = self.daemon.wait(60)
        self.daemon = None
        return code

    def kmind(self, *words: str) -> str:
        """What a command prints. It has to succeed."""
        done = subprocess.run(
            [*self._enter, sys.executable, "-m", "kmind", *words],
            env=self.environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def instance(self, name: str) -> dict[str, Any]:
        """What the daemon knows of an instance."""
        found: dict[str, Any] = self.client.get(f"/v1/instances/{name}")["instances"][0]
        return found

    def cat(self, path: str) -> str:
        """What ``cat`` shows there, without any daemon."""
        return (self._root / path.lstrip("/")).read_text()

    def exists(self, path: str) -> bool:
        """Whether it is there."""
        return (self._root / path.lstrip("/")).exists()

    def log(self) -> list[dict[str, Any]]:
        """The structured log."""
        return [json.loads(line) for line in self.cat("/var/log/kmind/kmind.log").splitlines()]

    def clear(self) -> None:
        """End whatever a daemon, dead or alive, has left."""
        if self.daemon:
            self.end(signal.SIGKILL)
        if any((self.folder / "run/state").glob("*.json")):
            self.start("--at-start=restore")
            self.end()


@contextmanager
def host(folder: Path) -> Iterator[Host]:
    """One for the length of the block; it leaves nothing behind."""
    keeper = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", _NAMESPACE], stdout=subprocess.PIPE, text=True
    )
    assert keeper.stdout
    assert keeper.stdout.readline() == "ready\n"
    it = Host(folder, keeper.pid)
    try:
        yield it
    finally:
        try:
            it.clear()
        finally:
            keeper.kill()
            keeper.wait()
            keeper.stdout.close()
