# SPDX-License-Identifier: Apache-2.0
"""Layout of the maps and messages of a gate's programs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from kmind.bpf import Link, Map, obj_pin
from kmind.errors import BpfError
from kmind.knobs import Knob, Target, Value
from kmind.knobs.backend import SysctlGuard

__all__ = [
    "APPROVALS",
    "APPROVED",
    "EVENTS",
    "FILE",
    "FILES",
    "HELD",
    "HOLDS",
    "KEY",
    "NAME",
    "OWNER",
    "GateEvent",
    "key_of",
    "names_of",
    "read_event",
    "repin",
    "reuse",
]

FILES, HOLDS, OWNER = "km_gate_files", "km_gate_held", "km_gate_owner"
EVENTS, APPROVALS = "km_gate_events", "km_approved"

NAME = Struct("=64s")
KEY = Struct("=II")  # struct kmind_grant_key of kmind/abi.h
FILE = Struct("=IIII")
HELD = Struct("=qII")
APPROVED = Struct("=qqIIQ")  # struct kmind_approved of kmind/abi.h
_EVENT = Struct("=QIIII16s64s32s")


@dataclass(frozen=True)
class GateEvent:
    """Somebody else's write to a file that is guarded, seen just before the kernel had it.

    ``file`` is a sysctl's name below /proc/sys, or a path below /sys. ``knob`` and
    ``target`` are the numbers of what is guarded; ``own`` is False where the write is not
    to the knob itself, but to one that resets it. ``pid`` counts in the first PID
    namespace. ``text`` is the start of what was written, "" below /sys, where it is not
    seen. ``time_ns`` is CLOCK_MONOTONIC. The kernel may have refused it.
    """

    file: str
    knob: int
    target: int
    own: bool
    pid: int
    comm: str
    text: str
    time_ns: int

    def sets(self, value: Value) -> bool:
        """True if the knob gets that value, provided that the kernel takes the write."""
        # As kernel/sysctl.c reads a number: 0x33 is hexadecimal, 033 octal.
        text = self.text.strip()
        for base in (0, 8):
            with suppress(ValueError):
                return self.own and int(text, base) == value
        return False

    def __str__(self) -> str:
        what = "" if self.file.startswith("/") else f" {self.text.strip()!r}"
        return f"{self.comm} (pid {self.pid}) wrote{what} to {self.file}"


def read_event(data: bytes) -> GateEvent:
    """One record of the ring of events."""
    time_ns, knob, target, pid, own, *texts = _EVENT.unpack_from(data)
    comm, name, text = (t.partition(b"\0")[0].decode(errors="replace") for t in texts)
    return GateEvent(name, knob, target, bool(own), pid, comm, text, time_ns)


def key_of(knob: Knob, target: Target) -> bytes:
    """The key of a knob on a target, in the maps of holds and approvals."""
    return KEY.pack(knob.id, target.id)


def names_of(sysctl: SysctlGuard) -> tuple[bytes, ...]:
    """The keys of a knob's files: its own first, then those whose writing resets it."""
    return tuple(NAME.pack(name.encode()) for name in (sysctl.name, *sysctl.resets))


def reuse(map_: Map, fd: int) -> None:
    """Use a map that is there; ``BpfError`` where it is of another shape."""

    def shape() -> tuple[int, int, int]:
        return map_.type, map_.key_size, map_.value_size

    wanted = shape()
    map_.reuse_fd(fd)
    if shape() != wanted:
        raise BpfError(f"map {map_.name} is of another release of kmind")


def repin(link: Link, path: Path) -> None:
    """Pin a link in the place of another, whose program goes the moment this one is there."""
    new = path.with_name(f"{path.name}_new")  # bpffs takes no dots in names
    new.unlink(missing_ok=True)
    obj_pin(link.fd, new)
    new.rename(path)
