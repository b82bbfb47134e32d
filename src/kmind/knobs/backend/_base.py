# SPDX-License-Identifier: Apache-2.0
"""The protocol of a backend, and the ways in which the gate can guard a knob.

A backend keeps no state: a knob is put back by another process, after a crash, from the
names in the journal. It is called from any thread. Only ``kmind.guard`` may have it write.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kmind.knobs._record import KnobRecord, Value
from kmind.knobs._target import Target

__all__ = ["Backend", "Guard", "SysctlGuard", "SysfsGuard"]


@dataclass(frozen=True)
class SysctlGuard:
    """Guarded by ``cgroup/sysctl`` (Linux 5.2), which sees each value before the kernel does.

    ``name`` and ``resets`` are below /proc/sys: the knob's own, and those whose writing
    resets the knob.
    """

    name: str
    resets: tuple[str, ...] = ()


@dataclass(frozen=True)
class SysfsGuard:
    """Guarded by BPF LSM (Linux 5.7), which sees that a file of sysfs is written to.

    It does not see the value.
    """

    file: Path


Guard = SysctlGuard | SysfsGuard


class Backend(Protocol):
    """Reads and writes knobs in one way. `Knob` has checked kind of target and value before.

    Every method may raise ``KnobError``, and ``PrivilegeError`` where the caller may not do it.
    """

    def exists(self, knob: KnobRecord, target: Target) -> bool:
        """Return True if the target has this knob; raise nothing."""

    def read(self, knob: KnobRecord, target: Target) -> Value:
        """Return the present value. An enum's may be a choice that kmind does not know."""

    def available(self, knob: KnobRecord, target: Target) -> tuple[str, ...]:
        """Return those of an enum's ``choices`` that the target takes now."""

    def write(self, knob: KnobRecord, target: Target, value: Value) -> None:
        """Hand the value to the kernel, as a whole or not at all; the caller reads it back."""

    def check_writable(self, knob: KnobRecord, target: Target) -> None:
        """Raise as ``write`` does where no value can be written; write nothing."""

    def guard(self, knob: KnobRecord, target: Target) -> Guard | None:
        """Return how the gate can guard it; None where it cannot, and reading back has to do."""

    def identity(self, knob: KnobRecord, target: Target) -> str:
        """Return text that tells what holds the value from another that takes its name later.

        The journal records it; where it has changed, a knob is not put back.
        """

    def place(self, knob: KnobRecord, target: Target) -> str:
        """Return where the value is, for messages; the path, if it is a file."""

    def show_command(self, knob: KnobRecord, target: Target) -> str:
        """Return a shell command with which an admin sees the value."""

    def set_command(self, knob: KnobRecord, target: Target, text: str) -> str:
        """Return a shell command with which an admin sets the value that ``text`` stands for."""
