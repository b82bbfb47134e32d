# SPDX-License-Identifier: Apache-2.0
"""Carrying a new read_ahead_kb to files that are open already.

The kernel copies a disk's readahead into each file when it is opened
(mm/readahead.c: file_ra_state_init), so a change reaches new opens only. The one
way to refresh a file from outside is posix_fadvise(POSIX_FADV_NORMAL) on a
descriptor that shares its ``struct file`` (pidfd_getfd(2)), which takes the
disk's present value (mm/fadvise.c). That also forgets that a program asked for
random access, so only files are refreshed that still hold what they inherited.
"""

from __future__ import annotations

import ctypes
import os
import stat
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from kmind.bpf import BpfObject, read_iter
from kmind.errors import KmindError
from kmind.knobs import Target

__all__ = [
    "OpenFile",
    "Refreshed",
    "open_files",
    "refresh_open_files",
    "refresh_streams",
    "unload_iterators",
]

_OBJECT = Path(__file__).with_name("openfiles.bpf.o")
# struct open_file of openfiles.bpf.c
_RECORD = np.dtype(
    [(name, "u8") for name in ("file", "inode", "start")]
    + [(name, "u4") for name in ("disk", "dev")]
    + [(name, "i4") for name in ("pid", "tgid")]
    + [(name, "u4") for name in ("fd", "mode", "ra_pages", "window")]
)
_PLACE = ("file", "pid", "tgid", "fd", "inode", "dev")
_AHEAD = ("file", "start", "window")
_MOST_STREAMS = 256

_Rows: TypeAlias = npt.NDArray[np.void]
_Which: TypeAlias = npt.NDArray[np.bool_]
_Place: TypeAlias = tuple[int, int, int, int, int, int]

# include/linux/fs.h: FMODE_RANDOM is bit 12; FMODE_NOREUSE bit 23 (since 6.3). What a
# program asked for with POSIX_FADV_RANDOM and POSIX_FADV_NOREUSE.
_FMODE_RANDOM = 1 << 12
_FMODE_NOREUSE = 1 << 23

_PIDFD_GETFD = 438  # the same number on every architecture (asm-generic/unistd.h)
_PIDFD_THREAD = os.O_EXCL  # include/uapi/linux/pidfd.h

_PAGE = os.sysconf("SC_PAGE_SIZE")
_libc = ctypes.CDLL(None, use_errno=True)

_loaded: dict[Path, BpfObject] = {}
_loading = threading.Lock()

# By disk, in the order of struct file: what was read ahead when its files were refreshed last.
_ahead: dict[int, _Rows] = {}


class OpenFile(NamedTuple):
    """One descriptor, or mapping, of a regular file; fields as in openfiles.bpf.c.

    ``disk`` and ``dev`` are the kernel's ``dev_t`` of the whole disk and of the
    file system, ``ra_pages`` the file's own readahead in pages; ``start`` and ``window`` are
    where, and how many pages, the kernel read ahead last.
    """

    file: int
    inode: int
    start: int
    disk: int
    dev: int
    pid: int
    tgid: int
    fd: int
    mode: int
    ra_pages: int
    window: int

    @property
    def advised(self) -> bool:
        """True if its program asked for random or one-time access."""
        return bool(self.mode & (_FMODE_RANDOM | _FMODE_NOREUSE))


@dataclass(frozen=True)
class Refreshed:
    """Result of refreshing a disk's open files, each counted once however it is shared.

    ``files`` follow the new value. ``skipped`` hold a value that their program asked for.
    ``unreachable`` keep the old value until they are opened anew: they are only mapped, or their
    process cannot be entered. ``late`` keep it too, because time ran out before their turn.
    ``streams`` are those of ``files`` that were read ahead by more than the new value since the
    last time, 256 at most. ``why`` is the reason if nothing was done, or "".
    """

    files: int = 0
    skipped: int = 0
    unreachable: int = 0
    late: int = 0
    streams: tuple[OpenFile, ...] = ()
    why: str = ""

    def __str__(self) -> str:
        if self.why:
            return f"open files keep the old value: {self.why}"
        return (
            f"open files: {self.files} follow, {self.skipped} left as advised, "
            f"{self.unreachable} out of reach"
            + (f", {self.late} not reached in time" if self.late else "")
        )


def open_files(disk: int | None = None) -> tuple[list[OpenFile], list[OpenFile]]:
    """All regular files on disks that processes have open, and that they have mapped.

    Those on one ``disk`` only, if it is given by its ``dev_t``.
    Files on btrfs, network and memory file systems are not among them: they do
    not follow a disk's setting. Nor are those that overlayfs holds for itself.
    Raises ``BpfError`` and its kin where iterators are not to be had.
    """
    descriptors, mappings = _records(disk)
    return [OpenFile(*row) for row in descriptors.tolist()], [
        OpenFile(*row) for row in mappings.tolist()
    ]


def _records(disk: int | None) -> tuple[_Rows, _Rows]:
    # Arrays: tens of thousands of objects have Python collect garbage, and all threads wait.
    programs = _iterators(_OBJECT).programs
    listed = []
    for name in ("descriptors", "mappings"):
        with programs[name].attach_iter() as link:
            rows = np.frombuffer(read_iter(link), _RECORD)
        listed.append(rows if disk is None else rows[rows["disk"] == disk])
    return listed[0], listed[1]


def _iterators(path: Path) -> BpfObject:
    # Loaded once a process: that takes 24 ms, and a walk 1 ms.
    with _loading:
        if path not in _loaded:
            iterators = BpfObject(path)
            iterators.load()
            _loaded[path] = iterators
        return _loaded[path]


def unload_iterators() -> None:
    """Give back what is kept for the next call: the iterators, and what they saw."""
    _ahead.clear()
    while _loaded:
        _loaded.popitem()[1].close()


def refresh_open_files(
    target: Target,
    old_kb: int | set[int],
    new_kb: int,
    *,
    more: Callable[[], bool] = lambda: True,
) -> Refreshed:
    """Let files that inherited ``old_kb`` (or one of them) follow the disk's ``new_kb``.

    Call it after the knob is written. Files that were read since the last time come first;
    it stops when ``more`` says so, and counts those that it has not reached. Never raises for
    what it cannot do.
    """
    new_pages = new_kb * 1024 // _PAGE
    olds = old_kb if isinstance(old_kb, set) else {old_kb}
    old_pages = {kb * 1024 // _PAGE for kb in olds} - {new_pages}
    if not old_pages:
        return Refreshed()
    try:
        descriptors, mappings = _records(target.id)
    except KmindError as error:
        return Refreshed(why=str(error))
    advised, inherited = _states(descriptors, old_pages)
    theirs = advised | ~(inherited | (descriptors["ra_pages"] == new_pages))
    moved = _moved(target.id, descriptors)[inherited & ~advised]
    ours = descriptors[inherited & ~advised]
    done, late = _refresh_all(_places(np.concatenate((ours[moved], ours[~moved]))), more)
    advised, inherited = _states(mappings, old_pages)
    for file in mappings["file"][inherited & ~advised].tolist():
        done.setdefault(file, False)
    follow = [file for file, could in done.items() if could]
    ahead = ours[moved & (ours["window"] > new_pages) & np.isin(ours["file"], _files(follow))]
    return Refreshed(
        len(follow),
        len(np.unique(descriptors["file"][theirs])),
        len(done) - len(follow),
        late,
        tuple(OpenFile(*row) for row in ahead[:_MOST_STREAMS].tolist()),
    )


def refresh_streams(
    streams: Iterable[OpenFile], *, more: Callable[[], bool] = lambda: True
) -> None:
    """Let these files take their disk's present readahead, as far as they are still open."""
    _refresh_all(((e.file, e.pid, e.tgid, e.fd, e.inode, e.dev) for e in streams), more)


def _states(rows: _Rows, old_pages: set[int]) -> tuple[_Which, _Which]:
    # Files advised by their program, and files with an inherited value.
    advised = (rows["mode"] & (_FMODE_RANDOM | _FMODE_NOREUSE)) != 0
    return advised, np.isin(rows["ra_pages"], np.array(sorted(old_pages), np.uint64))


def _moved(disk: int, rows: _Rows) -> _Which:
    # Files that were read ahead since the disk's files were refreshed last.
    now = rows[list(_AHEAD)][np.argsort(rows["file"], kind="stable")]
    before, _ahead[disk] = _ahead.get(disk), now
    if before is None or not len(before):
        return np.ones(len(rows), bool)
    at = np.searchsorted(before["file"], rows["file"]).clip(max=len(before) - 1)
    other = [before[name][at] != rows[name] for name in _AHEAD]
    moved: _Which = np.logical_or.reduce(other)
    return moved


def _files(numbers: list[int]) -> npt.NDArray[np.uint64]:
    return np.array(numbers, np.uint64)


def _places(rows: _Rows) -> Iterable[_Place]:
    return zip(*(rows[name].tolist() for name in _PLACE), strict=True)


def _refresh_all(files: Iterable[_Place], more: Callable[[], bool]) -> tuple[dict[int, bool], int]:
    # By struct file whether it could be refreshed, and how many were not reached.
    done: dict[int, bool] = {}
    late: set[int] = set()
    process, opened = -1, 0
    try:
        for file, pid, tgid, fd, inode, dev in files:
            if done.get(file):
                continue
            if late or not more():
                late.add(file)
                continue
            if pid != opened:
                if process >= 0:
                    os.close(process)
                process, opened = _pidfd(pid, tgid), pid
            done[file] = process >= 0 and _refresh(process, fd, inode, dev)
    finally:
        if process >= 0:
            os.close(process)
    return done, len(late - {file for file, could in done.items() if could})


def _pidfd(pid: int, tgid: int) -> int:
    try:
        return os.pidfd_open(pid, 0 if pid == tgid else _PIDFD_THREAD)
    except OSError:
        return -1


def _refresh(process: int, theirs: int, inode: int, dev: int) -> bool:
    # By a descriptor of ours for the other process's very ``struct file``.
    fd = _libc.syscall(_PIDFD_GETFD, process, theirs, 0)
    if fd < 0:
        return False
    try:
        found = os.fstat(fd)
        # The process may have closed it meanwhile, and opened another file.
        device = os.major(found.st_dev) << 20 | os.minor(found.st_dev)
        if (found.st_ino, device) != (inode, dev) or not stat.S_ISREG(found.st_mode):
            return False
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_NORMAL)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
