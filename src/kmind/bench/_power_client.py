# SPDX-License-Identifier: Apache-2.0
"""The process that mounts the disk whose power is cut, in a mount namespace of its own.

unshare --mount python -m kmind.bench._power_client FOLDER

Orders come as JSON lines: ``do`` is prepare, run or check, of ``load`` on ``device``; ``done`` goes
with check. Each is answered by one line: steps that were held to be safe, or the complaint.
"""

from __future__ import annotations

import ctypes
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from kmind.bench._power_loads import LOADS
from kmind.errors import KmindError
from kmind.workloads.host import find_tool

__all__ = ["PowerClient", "main"]

_DETACH = 2  # MNT_DETACH
_libc = ctypes.CDLL(None, use_errno=True)


class PowerClient:
    """The child. ``folder`` is where it mounts; nobody else sees that."""

    def __init__(self, folder: Path) -> None:
        words = [find_tool("unshare"), "--mount", "--propagation", "private"]
        self._process = subprocess.Popen(
            [*words, sys.executable, "-m", __name__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def order(self, do: str, load: str, device: Path, done: int = 0) -> Any:
        """Have it do one thing; raises KmindError if it ended."""
        assert self._process.stdin
        assert self._process.stdout
        order = {"do": do, "load": load, "device": str(device), "done": done}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise KmindError(f"the process that mounts {device} ended at {do} of {load}")
        return json.loads(line)

    def close(self) -> None:
        """End it: its mounts go with it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


def main() -> None:
    """Follow orders until there are no more."""
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(_follow(order, folder)), flush=True)


def _follow(order: dict[str, Any], folder: Path) -> Any:
    load, do = LOADS[order["load"]], order["do"]
    if not _mount(order["device"], folder):
        return f"it cannot be mounted: {os.strerror(ctypes.get_errno())}" if do == "check" else 0
    safe = 0

    def done(step: int) -> None:
        nonlocal safe
        safe = step + 1

    try:
        if do == "prepare":
            load.prepare(folder)
        elif do == "run":
            load.run(folder, done)
        else:
            return load.check(folder, order["done"])
    except (OSError, sqlite3.Error) as error:
        if do != "run":  # there it is the power
            return f"{type(error).__name__}: {error}"
    finally:
        _unmount(folder)
    return safe


def _mount(device: str, folder: Path) -> bool:
    names = (device.encode(), str(folder).encode(), b"ext4")
    return bool(_libc.mount(*names, ctypes.c_ulong(0), b"errors=remount-ro") == 0)


def _unmount(folder: Path) -> None:
    if _libc.umount2(str(folder).encode(), 0):
        _libc.umount2(str(folder).encode(), _DETACH)


if __name__ == "__main__":
    main()
