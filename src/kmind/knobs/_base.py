# SPDX-License-Identifier: Apache-2.0
"""A knob: its record, and the backend that reads and writes it.

A knob is stateless and safe to use from any thread. Only ``kmind.guard`` may call
``Knob.write``: it journals each change.
"""

from __future__ import annotations

from dataclasses import dataclass

from kmind.errors import KnobError, UsageError
from kmind.knobs._record import KnobRecord, Value
from kmind.knobs._target import Target
from kmind.knobs.backend import FILE, Backend, Guard

__all__ = ["Knob", "canonical"]

_TARGET_HINTS = {
    "block": "name a block device",
    "system": "the target is: system",
    "cgroup": "name a cgroup, such as cgroup:/system.slice",
}


@dataclass(frozen=True, kw_only=True)
class Knob(KnobRecord):
    """One kernel setting that can be changed, read and written by its ``backend``.

    Every method that takes a target raises ``UsageError`` for one of the wrong kind, but
    for ``exists``.
    """

    backend: Backend = FILE

    def exists(self, target: Target) -> bool:
        """True if the target has this knob."""
        return target.kind == self.target and self.backend.exists(self, target)

    def read(self, target: Target) -> Value:
        """The present value; ``KnobError`` where the target lacks the knob."""
        self.check_kind(target)
        return self.backend.read(self, target)

    def available(self, target: Target) -> tuple[str, ...]:
        """Those of ``choices`` that the target takes now; empty for an integer knob."""
        if self.kind == "int":
            return ()
        self.check_kind(target)
        return self.backend.available(self, target)

    def write(self, target: Target, value: Value) -> None:
        """Hand the value to the kernel, which may round it: read it back.

        ``KnobError`` where the kernel refuses, ``PrivilegeError`` where the
        caller may not write.
        """
        self.check_kind(target)
        self.encode(value)
        self.backend.write(self, target, value)

    def check_writable(self, target: Target) -> None:
        """Raise as ``write`` does where no value can be written.

        Nothing is written. The kernel may still refuse a value.
        """
        self.check_kind(target)
        self.backend.check_writable(self, target)

    def guard(self, target: Target) -> Guard | None:
        """Return how the gate can guard the knob on the target; None if it cannot."""
        self.check_kind(target)
        return self.backend.guard(self, target)

    def identity(self, target: Target) -> str:
        """Return a text that changes when another device or cgroup takes the target's name."""
        self.check_kind(target)
        return self.backend.identity(self, target)

    def place(self, target: Target) -> str:
        """Return the value's location for messages: the path of its file, if it has one."""
        self.check_kind(target)
        return self.backend.place(self, target)

    def show_command(self, target: Target) -> str:
        """A shell command with which an admin sees the value, such as ``cat FILE``."""
        self.check_kind(target)
        return self.backend.show_command(self, target)

    def set_command(self, target: Target, text: str) -> str:
        """A shell command with which an admin sets a value; ``text`` is as ``format`` has it."""
        self.check_kind(target)
        return self.backend.set_command(self, target, text)

    def check_kind(self, target: Target) -> None:
        """Raise ``UsageError`` for the wrong kind of target."""
        if target.kind != self.target:
            raise UsageError(
                f"{self.name} is a knob of a {self.target} target, and {target} is none",
                hint=_TARGET_HINTS[self.target],
            )

    def encode_found(self, value: Value, target: Target) -> int:
        """As ``encode``, of what the target holds now; ``KnobError`` for an unknown choice.

        Some kernels have choices of their own, such as schedulers. What kmind does not know it
        could not put back either, so such a knob is left alone.
        """
        try:
            return self.encode(value)
        except UsageError:
            raise KnobError(
                f"{self.name} of {target} stands at {value}, which kmind does not know and could "
                "not put back: it is left alone",
                hint=f"to have kmind change it, write one of {', '.join(self.choices)} to "
                f"{self.place(target)} first",
            ) from None


def canonical(name: str) -> str:
    """A knob's name as the registry has it: "-" and "_" are equal."""
    return name.replace("-", "_")
