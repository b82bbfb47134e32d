# SPDX-License-Identifier: Apache-2.0
"""Knobs that are files, below /proc/sys, /sys, or a cgroup's folder."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from kmind.errors import KnobError, PrivilegeError
from kmind.knobs._record import KnobRecord, Value
from kmind.knobs._target import Target
from kmind.knobs.backend._base import Guard, SysctlGuard, SysfsGuard

__all__ = ["FILE", "FileBackend"]

_CRYPTO_FILE = Path("proc/crypto")
_SYSCTL, _SYSFS = "proc/sys/", "sys/"


@dataclass(frozen=True)
class FileBackend:
    """One file per knob: ``path`` of its record, below the target's root or cgroup."""

    def exists(self, knob: KnobRecord, target: Target) -> bool:
        """Return True if the file is there."""
        return _file(knob, target).exists()

    def read(self, knob: KnobRecord, target: Target) -> Value:
        """Return the integer, or the choice in brackets."""
        text = _text(knob, target)
        if knob.kind == "enum":
            return _chosen(text)
        # A weight of cgroup v2 has a line of its own for each device below.
        word = text.partition("\n")[0].removeprefix("default ")
        try:
            return dict(knob.words).get(word) or int(word)
        except ValueError:
            raise KnobError(f"{knob.name} of {target} reads {text!r}, not an integer") from None

    def available(self, knob: KnobRecord, target: Target) -> tuple[str, ...]:
        """Return the choices that the file lists, or as the record's ``listed`` says."""
        words = {word.strip("[]") for word in _text(knob, target).split()}
        if knob.listed == "crypto":
            words |= _crypto(target.root)
        return tuple(choice for choice in knob.choices if choice in words or knob.listed == "all")

    def write(self, knob: KnobRecord, target: Target, value: Value) -> None:
        """Write the value, unless a file of ``conflicts`` is in force instead."""
        for name in knob.conflicts:
            other = target.root / name
            if other.exists() and other.read_text().strip() != "0":
                raise KnobError(
                    f"{knob.name} is not in force: /{name} is set instead",
                    hint=f"write 0 to /{name} first, if it is not wanted",
                )
        try:
            # One write(2), no truncation: sysfs and procfs take each write as a whole.
            # The kernel ignores O_TRUNC; a plain file under another root needs it.
            fd = os.open(_file(knob, target), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
            try:
                os.write(fd, str(value).encode())
            finally:
                os.close(fd)
        except OSError as error:
            what = f"cannot set {knob.name} of {target} to {value}"
            raise _refused(knob, target, error, what) from None

    def check_writable(self, knob: KnobRecord, target: Target) -> None:
        """Open the file for writing, and close it. The kernel may still refuse a value."""
        try:
            os.close(os.open(_file(knob, target), os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            what = f"cannot set {knob.name} of {target}"
            raise _refused(knob, target, error, what) from None

    def guard(self, knob: KnobRecord, target: Target) -> Guard | None:
        """Return the guard of a sysctl or a file of sysfs of the running kernel."""
        if target.root != Path("/"):
            return None
        if knob.path.startswith(_SYSCTL):
            rivals = (path for path in knob.conflicts if path.startswith(_SYSCTL))
            return SysctlGuard(
                knob.path.removeprefix(_SYSCTL), tuple(p.removeprefix(_SYSCTL) for p in rivals)
            )
        return SysfsGuard(_file(knob, target)) if knob.path.startswith(_SYSFS) else None

    def identity(self, knob: KnobRecord, target: Target) -> str:
        """Return the target's identity: its files come and go with it."""
        return target.identity()

    def place(self, knob: KnobRecord, target: Target) -> str:
        """Return the file's path."""
        return str(_file(knob, target))

    def show_command(self, knob: KnobRecord, target: Target) -> str:
        """Return ``cat FILE``."""
        return f"cat {_file(knob, target)}"

    def set_command(self, knob: KnobRecord, target: Target, text: str) -> str:
        """Return ``echo VALUE > FILE``."""
        return f"echo {text} > {_file(knob, target)}"


FILE = FileBackend()
"""The backend of every knob whose record names no other."""


def _file(knob: KnobRecord, target: Target) -> Path:
    if target.kind == "cgroup":
        return target.cgroup_folder(knob.controller) / knob.path
    return target.root / knob.path.format(name=target.name)


def _text(knob: KnobRecord, target: Target) -> str:
    # Three system calls, where Python's text file takes nine: knobs are read all day.
    try:
        fd = os.open(_file(knob, target), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 4096).decode(errors="replace").strip()
        finally:
            os.close(fd)
    except OSError as error:
        raise _refused(knob, target, error, f"cannot read {knob.name} of {target}") from None


def _refused(
    knob: KnobRecord, target: Target, error: OSError, what: str
) -> KnobError | PrivilegeError:
    """Return the error that a refused read or write of this knob's file means."""
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return KnobError(
            f"{target} has no knob {knob.name} (no {_file(knob, target)})",
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


def _chosen(text: str) -> str:
    """Return the word in brackets, as in "none [mq-deadline] kyber"; a lone word is itself."""
    words = text.split()
    for word in words:
        if word.startswith("[") and word.endswith("]"):
            return word[1:-1]
    return words[0] if words else ""


def _crypto(root: Path) -> set[str]:
    """Return the algorithms that the kernel has loaded; none where it does not say."""
    try:
        lines = (root / _CRYPTO_FILE).read_text().splitlines()
    except OSError:
        return set()
    return {line.partition(":")[2].strip() for line in lines if line.startswith("name")}
