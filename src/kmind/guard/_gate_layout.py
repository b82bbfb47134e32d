# SPDX-License-Identifier: Apache-2.0
"""What gate.bpf.c keeps in its maps and tells, as Python sees it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from struct import Struct

from kmind.knobs import Knob, Target, Value

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
]

FILES, HOLDS, OWNER = "km_gate_files", "km_gate_held", "km_gate_owner"
EVENTS, APPROVALS = "km_gate_events", "km_approved"

NAME = Struct("=64s")
KEY = Struct("=II")  # struct kmind_grant_key of abi/kmind.h
FILE = Struct("=IIII")
HELD = Struct("=qII")
APPROVED = Struct("=qqIIQ")  # struct kmind_approved of abi/kmind.h
_EVENT = Struct("=QIIII16s64s32s")


@dataclass(frozen=True)
class GateEvent:
    """Somebody else's write to a sysctl that is guarded, seen just before the kernel had it.

    ``sysctl`` is its name below /proc/sys. ``knob`` and ``target`` are the numbers of
    what is guarded; ``own`` is False where the write is not to the knob itself, but to
    one that resets it. ``pid`` counts in the first PID namespace, ``text`` is the start
    of what was written, ``time_ns`` is CLOCK_MONOTONIC. The kernel may have refused it.
    """

    sysctl: str
    knob: int
    target: int
    own: bool
    pid: int
    comm: str
    text: str
    time_ns: int

    def sets(self, value: Value) -> bool:
        """Whether the knob has that value if the kernel takes the write."""
        # As kernel/sysctl.c reads a number: 0x33 is hexadecimal, 033 octal.
        text = self.text.strip()
        for base in (0, 8):
            with suppress(ValueError):
                return self.own and int(text, base) == value
        return False

    def __str__(self) -> str:
        return f"{self.comm} (pid {self.pid}) wrote {self.text.strip()!r} to {self.sysctl}"


def read_event(data: bytes) -> GateEvent:
    """One record of the ring of events."""
    time_ns, knob, target, pid, own, *texts = _EVENT.unpack_from(data)
    comm, name, text = (t.partition(b"\0")[0].decode(errors="replace") for t in texts)
    return GateEvent(name, knob, target, bool(own), pid, comm, text, time_ns)


def key_of(knob: Knob, target: Target) -> bytes:
    """The key of a knob on a target, in the maps of holds and approvals."""
    return KEY.pack(knob.id, target.id)


def names_of(knob: Knob) -> tuple[bytes, ...]:
    """The keys of a knob's files: its own first, then those whose writing resets it."""
    return tuple(NAME.pack(name.encode()) for name in (knob.sysctl, *knob.rivals))
