# SPDX-License-Identifier: Apache-2.0
"""What a knob is: one frozen record that says all there is to say about it.

Reading, writing, the policy's bounds, the kernel agent's grants and the table in
the documentation are made from it. A knob is stateless and safe to use from any
thread. Only ``kmind.guard`` may call ``Knob.write``: it journals each change.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal
from zlib import crc32

from kmind.errors import KnobError, PrivilegeError, UsageError
from kmind.knobs._target import Target, TargetKind

__all__ = ["Knob", "Rule", "RuleOp", "Value", "canonical"]

Value = int | str
RuleOp = Literal["<", "<=", ">", ">="]

_MEMORY_FILE = Path("proc/meminfo")
_CRYPTO_FILE = Path("proc/crypto")
_SYSCTL = "proc/sys/"
_TARGET_HINTS = {
    "block": "name a block device",
    "system": "the target is: system",
    "cgroup": "name a cgroup, such as cgroup:/system.slice",
}


@dataclass(frozen=True)
class Rule:
    """A rule over two knobs of one target: ``value op other + offset``.

    Where the other knob cannot be read, no value satisfies it.
    """

    op: RuleOp
    other: str
    offset: int = 0

    def holds(self, value: int, other: int) -> bool:
        """Whether ``value op other + offset`` is true."""
        bound = other + self.offset
        if self.op == "<":
            return value < bound
        if self.op == "<=":
            return value <= bound
        if self.op == ">":
            return value > bound
        return value >= bound

    def __str__(self) -> str:
        return f"{self.op} {self.other}" + (f" {self.offset:+d}" if self.offset else "")


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One kernel setting that can be changed.

    ``minimum`` and ``maximum`` are bounds that are safe on any machine, often
    narrower than what the kernel takes; ``memory_percent``, if not 0, lowers the
    maximum (in kB) to that share of the machine's memory. Values are multiples
    of ``grid``. An enum takes one of ``choices``, of which a target may lack
    some (``available``). ``rules`` bind it to other knobs of the same target.

    ``path`` is relative to the target's root, with the target's name for
    ``{name}``. ``reference`` is the kernel's own documentation. ``settle`` says
    whether a change works at once or needs minutes to show. ``disturbs`` names
    knobs of the same target whose values the kernel resets when this one is
    written. ``conflicts`` are files that must read 0, or else this knob is not
    the one in force and writing it would lose their value. ``propagate`` names
    the step that carries a change to what the kernel copied it into before, and
    ``drain`` a value that a decrease passes through for moments, as what was begun
    under the larger one would go on with it (None: it does not). ``note`` is one
    sentence on what is odd about it, or "".

    ``cost`` is what the change itself costs, whatever the value: nothing worth a word
    (``none``), a moment (``cheap``), or work, memory or waiting of others
    (``disturbing``); ``cost_why`` says what. ``listed`` says where the choices that a
    target has can be read: in its file, nowhere (``all`` are there), or among the
    kernel's compressors (``crypto``). ``words`` are texts in the file that stand for
    numbers. A cgroup's knob belongs to a ``controller`` of version 1; "" is version 2.
    """

    name: str
    target: TargetKind
    path: str
    summary: str
    reference: str
    kind: Literal["int", "enum"] = "int"
    unit: str = ""
    minimum: int = 0
    maximum: int = 0
    memory_percent: int = 0
    grid: int = 1
    choices: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    settle: Literal["instant", "slow"] = "instant"
    disturbs: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    propagate: Literal["", "open_files"] = ""
    drain: int | None = None
    note: str = ""
    cost: Literal["none", "cheap", "disturbing"] = "cheap"
    cost_why: str = ""
    listed: Literal["file", "all", "crypto"] = "file"
    words: tuple[tuple[str, int], ...] = ()
    controller: str = ""

    @property
    def id(self) -> int:
        """Stable 32-bit number of the knob: the CRC-32 (zlib's) of its name."""
        return crc32(self.name.encode())

    @property
    def sysctl(self) -> str:
        """Its name below /proc/sys, such as "vm/swappiness"; "" where it is no sysctl."""
        return self.path.removeprefix(_SYSCTL) if self.path.startswith(_SYSCTL) else ""

    @property
    def rivals(self) -> tuple[str, ...]:
        """Those of ``conflicts`` that are sysctls, by their names: writing one resets this."""
        return tuple(p.removeprefix(_SYSCTL) for p in self.conflicts if p.startswith(_SYSCTL))

    def file(self, target: Target) -> Path:
        """The file that holds the knob; ``UsageError`` for the wrong kind of target."""
        if target.kind != self.target:
            raise UsageError(
                f"{self.name} is a knob of a {self.target} target, and {target} is none",
                hint=_TARGET_HINTS[self.target],
            )
        if self.target == "cgroup":
            return target.cgroup_folder(self.controller) / self.path
        return target.root / self.path.format(name=target.name)

    def limits(self, target: Target) -> tuple[int, int]:
        """Safe minimum and maximum on this machine, encoded, in the knob's unit."""
        if self.kind == "enum":
            return 0, len(self.choices) - 1
        maximum = self.maximum
        if self.memory_percent:
            share = _memory_kb(target.root) * self.memory_percent // 100
            maximum = max(self.minimum, min(maximum, share))
        return self.minimum, maximum

    def exists(self, target: Target) -> bool:
        """Whether the target has this knob."""
        return target.kind == self.target and self.file(target).exists()

    def read(self, target: Target) -> Value:
        """The present value; ``KnobError`` where the target lacks the knob."""
        text = self._text(target)
        if self.kind == "enum":
            return _chosen(text)
        # A weight of cgroup v2 has a line of its own for each device below.
        word = text.partition("\n")[0].removeprefix("default ")
        try:
            return dict(self.words).get(word) or int(word)
        except ValueError:
            raise KnobError(f"{self.name} of {target} reads {text!r}, not an integer") from None

    def available(self, target: Target) -> tuple[str, ...]:
        """Those of ``choices`` that the target takes now; empty for an integer knob."""
        if self.kind == "int":
            return ()
        words = {word.strip("[]") for word in self._text(target).split()}
        if self.listed == "crypto":
            words |= _crypto(target.root)
        return tuple(choice for choice in self.choices if choice in words or self.listed == "all")

    def write(self, target: Target, value: Value) -> None:
        """Hand the value to the kernel, which may round it: read it back.

        ``KnobError`` where the kernel refuses, ``PrivilegeError`` where the
        caller may not write.
        """
        file = self.file(target)
        for name in self.conflicts:
            other = target.root / name
            if other.exists() and other.read_text().strip() != "0":
                raise KnobError(
                    f"{self.name} is not in force: /{name} is set instead",
                    hint=f"write 0 to /{name} first, if it is not wanted",
                )
        text = self.format(value)
        try:
            # One write(2), no truncation: sysfs and procfs take each write as a whole.
            # The kernel ignores O_TRUNC; a plain file under another root needs it.
            fd = os.open(file, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise self._refused(
                target, error, f"cannot set {self.name} of {target} to {text}"
            ) from None

    def check_writable(self, target: Target) -> None:
        """Raise as ``write`` does where the knob's file cannot be opened for writing.

        Nothing is written. The kernel may still refuse a value.
        """
        try:
            os.close(os.open(self.file(target), os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            raise self._refused(target, error, f"cannot set {self.name} of {target}") from None

    def parse(self, text: str) -> Value:
        """A value from what a user typed; ``UsageError`` if it is none."""
        word = text.strip()
        if self.kind == "enum":
            return self.decode(self.encode(word))
        try:
            return dict(self.words).get(word) or int(word, 10)
        except ValueError:
            raise UsageError(
                f"{self.name} takes an integer{f' ({self.unit})' if self.unit else ''}, "
                f"not {text!r}"
            ) from None

    def format(self, value: Value) -> str:
        """The value as the kernel's file takes it; the inverse of ``parse``."""
        self.encode(value)
        return str(value)

    def encode(self, value: Value) -> int:
        """The value as an integer: itself, or its index in ``choices``.

        ``UsageError`` for a value of the wrong type, or an unknown choice.
        """
        if self.kind == "int":
            if type(value) is int:
                return value
            raise UsageError(f"{self.name} takes an integer, not {value!r}")
        if isinstance(value, str) and value in self.choices:
            return self.choices.index(value)
        near = get_close_matches(str(value), self.choices, 1)
        raise UsageError(
            f"{self.name} has no choice {value!r}",
            hint=(f"did you mean {near[0]}? " if near else "")
            + f"it takes {', '.join(self.choices)}",
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
                f"{self.file(target)} first",
            ) from None

    def decode(self, code: int) -> Value:
        """The value that ``encode`` made an integer of."""
        if self.kind == "int":
            return code
        if 0 <= code < len(self.choices):
            return self.choices[code]
        raise UsageError(f"{self.name} has no choice number {code}")

    def _text(self, target: Target) -> str:
        # Three system calls, where Python's text file takes nine: knobs are read all day.
        try:
            fd = os.open(self.file(target), os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.read(fd, 4096).decode(errors="replace").strip()
            finally:
                os.close(fd)
        except OSError as error:
            raise self._refused(target, error, f"cannot read {self.name} of {target}") from None

    def _refused(self, target: Target, error: OSError, what: str) -> KnobError | PrivilegeError:
        """The error that a refused read or write of this knob's file means."""
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            return KnobError(
                f"{target} has no knob {self.name} (no {self.file(target)})",
                hint="this device or kernel lacks the feature",
            )
        if error.errno in (errno.EACCES, errno.EPERM) and os.geteuid() != 0:
            return PrivilegeError(f"{what}: {error.strerror}", hint="run as root")
        hints = {
            errno.EBUSY: "it cannot be changed while it is in use",
            errno.EINVAL: "the kernel does not take that here, or the feature is off",
            errno.EPERM: "a sysctl gate or the kernel's lockdown forbids it",
            errno.EROFS: "mounted read-only, as in a container: run kmind on the host, "
            "or mount /sys and /proc/sys for writing",
        }
        return KnobError(f"{what}: {error.strerror}", hint=hints.get(error.errno or 0, ""))


def canonical(name: str) -> str:
    """A knob's name as the registry has it: "-" and "_" are equal."""
    return name.replace("-", "_")


def _chosen(text: str) -> str:
    """The word in brackets, as in "none [mq-deadline] kyber"; a lone word is itself."""
    words = text.split()
    for word in words:
        if word.startswith("[") and word.endswith("]"):
            return word[1:-1]
    return words[0] if words else ""


def _memory_kb(root: Path) -> int:
    """MemTotal in kB; 0 where it cannot be told, which leaves the safe minimum."""
    try:
        for line in (root / _MEMORY_FILE).read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0


def _crypto(root: Path) -> set[str]:
    """Names of the algorithms that the kernel has loaded; none where it does not say."""
    try:
        lines = (root / _CRYPTO_FILE).read_text().splitlines()
    except OSError:
        return set()
    return {line.partition(":")[2].strip() for line in lines if line.startswith("name")}
