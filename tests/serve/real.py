# SPDX-License-Identifier: Apache-2.0
"""The real daemon, in a mount namespace with a bpf file system and a log folder of its own.

So that no two tests, and no daemon of the machine, share pins. Everything else is real.
"""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from kmind.cli.client import Client
from kmind.testing.daemon import DaemonHost

__all__ = ["Host", "host"]


class Host(DaemonHost):
    """A machine of the test's own, as far as kmind is concerned, and its client."""

    def __init__(self, folder: Path, namespace: int) -> None:
        super().__init__(folder, namespace)
        self.client = Client(self.socket)

    def start(self, *words: str, under: Sequence[str] = ()) -> float:
        """Start the daemon and wait until it answers; when it began."""
        super().start(*words, under=under)
        return self.began()

    def began(self) -> float:
        """Return the start time of the daemon that answers now."""
        health = self.client.get("/v1/health")
        assert self.daemon is not None
        assert health["pid"] == self.daemon.pid
        return float(health["started"])

    def instance(self, name: str) -> dict[str, Any]:
        """Return the daemon's description of an instance."""
        found: dict[str, Any] = self.client.get(f"/v1/instances/{name}")["instances"][0]
        return found

    def listed(self, folder: str) -> list[str]:
        """Names in a folder, without any daemon."""
        return sorted(path.name for path in (self._root / folder.lstrip("/")).iterdir())

    def log(self) -> list[dict[str, Any]]:
        """The structured log."""
        text = self.cat("/var/log/kmind/kmind.log")
        # The last line may be written just now.
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def host(folder: Path) -> AbstractContextManager[Host]:
    """One for the length of the block; it leaves nothing behind."""
    return Host.open(folder)
