# SPDX-License-Identifier: Apache-2.0
"""One name in all cgroup hierarchies: its folders, made, found, emptied and removed."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from kmind.errors import KmindError, UsageError
from kmind.runtime.sandbox.cgroup.mounts import Hierarchy
from kmind.util.files import make_folder

__all__ = ["FOLDER", "Folders", "read_words", "write_file"]

FOLDER = "kmind"
"""Below the base of each hierarchy; the extensions' cgroups are in it."""

_END_S = 5.0


class Folders:
    """The folders of the cgroup ``name``.

    ``at`` is, for each controller that limits or counts in it, the version of its
    hierarchy (1 or 2) and the folder; "" stands for version 2 as such. ``missing`` says
    why another cannot be had.
    """

    def __init__(self, name: str, hierarchies: Sequence[Hierarchy]) -> None:
        if not name or "/" in name or name.startswith((".", "cgroup.")) or "\n" in name:
            raise UsageError(f"no cgroup can be called {name!r}")
        self._name = name
        self._hierarchies = hierarchies
        self.all = [self._folder(hierarchy) for hierarchy in hierarchies]
        self.at: dict[str, tuple[int, Path]] = {}
        self.missing: dict[str, str] = {}

    def make(self, controllers: Sequence[str]) -> None:
        """Make them, with those controllers where the hierarchies have them."""
        self.all.clear()
        for hierarchy in self._hierarchies:
            folder = self._folder(hierarchy)
            try:
                _make(folder)
            except OSError as error:
                for controller in self._offered(hierarchy).intersection(controllers):
                    self.missing[controller] = f"cannot make {folder}: {error.strerror}"
                continue
            self.all.append(folder)
            for controller in sorted(self._offered(hierarchy)):
                try:
                    if hierarchy.version == 2 and controller in controllers:
                        _hand_down(hierarchy, controller)
                    self.at[controller] = hierarchy.version, folder
                except OSError as error:
                    where = hierarchy.base
                    self.missing[controller] = f"cannot be had below {where}: {error.strerror}"
        for controller in controllers:
            if controller not in self.at:
                self.missing.setdefault(controller, "no mounted cgroup hierarchy has it")

    def find(self, controllers: Sequence[str]) -> None:
        """Find what was made before. Raises KmindError if nothing is there."""
        for hierarchy in self._hierarchies:
            folder = self._folder(hierarchy)
            if not folder.is_dir():
                self.all.remove(folder)
                continue
            for controller in self._offered(hierarchy, folder):
                self.at[controller] = hierarchy.version, folder
        if not self.all:
            raise KmindError(f"there is no cgroup {self._name}")
        for controller in controllers:
            if controller not in self.at:
                self.missing[controller] = "it was missing when the cgroup was made"

    def kill(self) -> None:
        """Kill every process in them, and wait until none is left, 5 s at most."""
        deadline = time.monotonic() + _END_S
        for folder in self.all:
            with contextlib.suppress(OSError):
                write_file(folder / "cgroup.kill", "1")  # version 2, since Linux 5.14
        while pids := {pid for folder in self.all for pid in _pids(folder)}:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                return
            time.sleep(0.002)

    def remove(self) -> None:
        """Kill, and remove them. Raises KmindError if a process in them does not end."""
        self.kill()
        deadline = time.monotonic() + _END_S
        for folder in self.all:
            while not _removed(folder):
                if time.monotonic() > deadline:
                    raise KmindError(
                        f"the cgroup {folder} cannot be removed: a process in it does not end",
                        hint="cgroup.procs in it says which",
                    )
                time.sleep(0.002)
            _removed(folder.parent)  # unless others are in it

    def _folder(self, hierarchy: Hierarchy) -> Path:
        return hierarchy.base / FOLDER / self._name

    def _offered(self, hierarchy: Hierarchy, folder: Path | None = None) -> frozenset[str]:
        if hierarchy.version == 1:
            return hierarchy.controllers
        return frozenset(["", *read_words((folder or hierarchy.base) / "cgroup.controllers")])


def read_words(path: Path) -> list[str]:
    """The words of a small file, up to a page; none where it cannot be read."""
    # Three system calls, where Python's text file takes nine: limits are looked at all day.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 4096).decode(errors="replace").split()
        finally:
            os.close(fd)
    except OSError:
        return []


def write_file(path: Path, text: str) -> None:
    """Write to a file of cgroupfs that is there already; OSError if it is not."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _make(folder: Path) -> None:
    # Another instance that ends may take the folder above away in between.
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError):
            make_folder(folder.parent, 0o755)
            folder.mkdir()
            break
    else:
        folder.mkdir()
    folder.chmod(0o755)  # what it counts is no secret


def _hand_down(hierarchy: Hierarchy, controller: str) -> None:
    # From the base to kmind/, and from there to the extension's own.
    for folder in (hierarchy.base, hierarchy.base / FOLDER):
        control = folder / "cgroup.subtree_control"
        if controller in read_words(control):
            continue
        # A cgroup with controllers for its children has no processes of its own, but for
        # the root, which has no type. The kernel would take "cpu" and "pids" all the same,
        # and then make the cgroup one of threads, in which nothing else can be limited.
        if (folder / "cgroup.type").exists() and _pids(folder):
            raise OSError(errno.EBUSY, "it has processes of its own")
        write_file(control, f"+{controller}")


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _pids(folder: Path) -> list[int]:
    try:
        return [int(word) for word in (folder / "cgroup.procs").read_text().split()]
    except OSError:
        return []
