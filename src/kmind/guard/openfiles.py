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
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from kmind.bpf import BpfObject, read_iter
from kmind.errors import KmindError
from kmind.knobs import Target

__all__ = ["OpenFile", "Refreshed", "open_files", "refresh_open_files", "unload_iterators"]

_OBJECT = Path(__file__).with_name("openfiles.bpf.o")
_RECORD = Struct("=QQQIIiiIIII")  # struct open_file of openfiles.bpf.c

# include/linux/fs.h: FMODE_RANDOM is bit 12; FMODE_NOREUSE bit 23 (since 6.3). What a
# program asked for with POSIX_FADV_RANDOM and POSIX_FADV_NOREUSE.
_FMODE_RANDOM = 1 << 12
_FMODE_NOREUSE = 1 << 23

_PIDFD_GETFD = 438  # the same number on every architecture (asm-generic/unistd.h)
_PIDFD_THREAD = os.O_EXCL  # include/uapi/linux/pidfd.h

_PAGE = os.sysconf("SC_PAGE_SIZE")

_loaded: dict[Path, BpfObject] = {}

# By disk and struct file: what was read ahead when the disk's files were refreshed last.
_ahead: dict[int, dict[int, tuple[int, int]]] = {}


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
        """Whether its program asked for random or one-time access."""
        return bool(self.mode & (_FMODE_RANDOM | _FMODE_NOREUSE))


@dataclass(frozen=True)
class Refreshed:
    """What became of a disk's open files, each counted once however it is shared.

    ``files`` follow the new value. ``skipped`` hold one that their program asked
    for. ``unreachable`` keep the old value until they are opened anew: they are
    only mapped, or their process let nobody in. ``streams`` of ``files`` were read
    ahead by more than the new value since the last time. ``why`` says why nothing was
    done, or "".
    """

    files: int = 0
    skipped: int = 0
    unreachable: int = 0
    streams: int = 0
    why: str = ""

    def __str__(self) -> str:
        if self.why:
            return f"files already open keep the old value: {self.why}"
        return (
            f"open files: {self.files} follow, {self.skipped} left as advised, "
            f"{self.unreachable} out of reach"
        )


def open_files() -> tuple[list[OpenFile], list[OpenFile]]:
    """All regular files on disks that processes have open, and that they have mapped.

    Files on btrfs, network and memory file systems are not among them: they do
    not follow a disk's setting. Nor are those that overlayfs holds for itself.
    Raises ``BpfError`` and its kin where iterators are not to be had.
    """
    programs = _iterators(_OBJECT).programs
    listed = []
    for name in ("descriptors", "mappings"):
        with programs[name].attach_iter() as link:
            listed.append([OpenFile(*row) for row in _RECORD.iter_unpack(read_iter(link))])
    return listed[0], listed[1]


def _iterators(path: Path) -> BpfObject:
    # Loaded once a process: that takes 24 ms, and a walk 1 ms.
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


def refresh_open_files(target: Target, old_kb: int | set[int], new_kb: int) -> Refreshed:
    """Let files that inherited ``old_kb`` (or one of them) follow the disk's ``new_kb``.

    Call it after the knob is written. Never raises for what it cannot do.
    """
    new_pages = new_kb * 1024 // _PAGE
    olds = old_kb if isinstance(old_kb, set) else {old_kb}
    old_pages = {kb * 1024 // _PAGE for kb in olds} - {new_pages}
    if not old_pages:
        return Refreshed()
    try:
        descriptors, mappings = open_files()
    except KmindError as error:
        return Refreshed(why=str(error))
    before = _ahead.get(target.id, {})
    now = {e.file: (e.start, e.window) for e in descriptors if e.disk == target.id}
    _ahead[target.id] = now
    done: dict[int, bool] = {}
    advised = set()
    for each in descriptors:
        if each.disk != target.id or done.get(each.file):
            continue
        if each.advised or each.ra_pages not in old_pages | {new_pages}:
            advised.add(each.file)
        elif each.ra_pages in old_pages:
            done[each.file] = _refresh(each)
    for each in mappings:
        if each.disk == target.id and each.ra_pages in old_pages and not each.advised:
            done.setdefault(each.file, False)
    follow = [file for file, could in done.items() if could]
    streams = sum(now[file][1] > new_pages and now[file] != before.get(file) for file in follow)
    return Refreshed(len(follow), len(advised), len(done) - len(follow), streams)


def _refresh(each: OpenFile) -> bool:
    try:
        with _shared(each) as fd:
            found = os.fstat(fd)
            # The process may have closed it meanwhile, and opened another file.
            dev = os.major(found.st_dev) << 20 | os.minor(found.st_dev)
            if (found.st_ino, dev) != (each.inode, each.dev) or not stat.S_ISREG(found.st_mode):
                return False
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_NORMAL)
    except OSError:
        return False
    return True


@contextmanager
def _shared(each: OpenFile) -> Iterator[int]:
    """A descriptor of ours for another process's very ``struct file``."""
    flags = 0 if each.pid == each.tgid else _PIDFD_THREAD
    process = os.pidfd_open(each.pid, flags)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.syscall(_PIDFD_GETFD, process, each.fd, 0)
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, errno.errorcode.get(number, "?"))
    finally:
        os.close(process)
    try:
        yield fd
    finally:
        os.close(fd)
