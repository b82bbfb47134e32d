# SPDX-License-Identifier: Apache-2.0
"""Holders of block devices and FUSE connections, as /proc and /sys tell; no device is opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["connection_is_held", "holders"]

_PROC = Path("/proc")
_MOST = 4


def holders(device: str) -> list[str]:
    """Up to four who use a block device, ``loop0`` say: mounts, swap, devices on it, processes."""
    found: dict[str, None] = {}
    for who in _holders(device):
        found[who] = None
        if len(found) == _MOST:
            break
    return list(found)


def connection_is_held(number: int) -> bool:
    """True if a process has /dev/fuse open for this connection, or if that cannot be told."""
    for process in _processes():
        for name, target in _links(process):
            if target != "/dev/fuse":
                continue
            # The line is there since Linux 6.15; without it, any of them may be the one.
            with suppress(OSError):
                text = (process / "fdinfo" / name).read_text()
                line = next((x for x in text.splitlines() if x.startswith("fuse_conn")), "")
                if not line or line.split()[-1] == str(number):
                    return True
    return False


def _holders(device: str) -> Iterator[str]:
    system = Path("/sys/class/block") / device
    path = f"/dev/{device}"
    for above in sorted((system / "holders").glob("*")):
        yield f"device {above.name}"
    with suppress(OSError):
        if any(line.startswith(f"{path} ") for line in (_PROC / "swaps").read_text().splitlines()):
            yield "swap"
    with suppress(OSError):
        number = (system / "dev").read_text().strip()
        yield from _mounts(number)
    for process in _processes():
        with suppress(OSError):
            opened = any(target == path for _, target in _links(process))
            if opened or f" {path}\n" in (process / "maps").read_text():
                yield f"process {process.name} ({(process / 'comm').read_text().strip()})"


def _mounts(number: str) -> Iterator[str]:
    seen = set()
    for process in _processes():
        with suppress(OSError):
            namespace = (process / "ns/mnt").readlink()
            if namespace in seen:
                continue
            seen.add(namespace)
            for line in (process / "mountinfo").read_text().splitlines():
                fields = line.split()
                if fields[2] == number:
                    yield f"the mount at {fields[4]} (of process {process.name})"


def _processes() -> list[Path]:
    return [path for path in _PROC.iterdir() if path.name.isdigit()]


def _links(process: Path) -> Iterator[tuple[str, str]]:
    """Number and target of each descriptor; the links alone are read, for stat(2) could hang."""
    with suppress(OSError):
        for link in (process / "fd").iterdir():
            with suppress(OSError):
                yield link.name, str(link.readlink())
