# SPDX-License-Identifier: Apache-2.0
"""A file system of the process's own: the interpreter's libraries, and the files it was promised.

In a mount namespace of its own (mount_namespaces(7)) everything else is gone: no path leads to it,
so stat(2) tells nothing of it either, not even that it exists. What is left is mounted
read-only, at the paths that it has outside. So a process without privileges can import from an
interpreter in a folder that no other user may enter.

Numbers are those of linux/mount.h; the calls are those of open_tree(2), since Linux 5.2, and
mount_setattr(2), since 5.12. Their numbers are the same on all architectures.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from kmind.errors import KmindError, NotSupportedError

__all__ = ["enter_own_root", "library_folders", "open_promised"]

_NR_OPEN_TREE, _NR_MOVE_MOUNT, _NR_MOUNT_SETATTR = 428, 429, 442
_NR_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_CLONE_NEWNS = 0x20000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 2, 4, 8, 0x4000, 0x40000
_MNT_DETACH = 2
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_MOVE_MOUNT_F_EMPTY_PATH = 4
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4

# Where the new root is put together: there in every system, and hidden by it at the end.
_STAGE = "/proc"
# What the dynamic linker looks through, and its index (ld.so(8)).
_LINKER = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")

_libc = ctypes.CDLL(None, use_errno=True)


def library_folders() -> list[str]:
    """Return the folders that imports read: ``sys.path``, the interpreter's and the linker's."""
    prefixes = {sys.base_prefix, sys.base_exec_prefix}
    named = {*sys.path, *_LINKER, *(f"{prefix}/lib" for prefix in prefixes)}
    absolute = {path for path in named if path.startswith("/") and Path(path).exists()} - {"/"}
    return sorted(absolute | {os.path.realpath(path) for path in absolute})


def open_promised(path: str) -> int:
    """Open what a manifest's ``sandbox.files`` names, to hold it (O_PATH), not to read it.

    Done as the user who is to read it, so that no file comes into reach that this one could not
    get at by its path. Raises KmindError.
    """
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise KmindError(
            f"sandbox.files: {path} cannot be opened: {error.strerror}",
            hint="correct it in module.toml, or let every user get there",
        ) from None


def enter_own_root(libraries: Sequence[str], files: Iterable[str], uid: int) -> None:
    """Leave for a file system that has nothing but ``libraries`` and ``files``, for good.

    ``files`` are those that the user ``uid`` can get at. The caller is root, and gives up all
    groups here. Raises NotSupportedError where the kernel or a container refuses; then nothing has
    changed. Raises KmindError for a file that ``uid`` cannot get at.
    """
    os.setgroups([])
    try:
        _leave(libraries, files, uid)
    except OSError as error:
        raise NotSupportedError(
            f"no file system of its own: {error.strerror}",
            hint="let root make mount namespaces (RestrictNamespaces=mnt of systemd)",
        ) from None


def _open_as(uid: int, files: Iterable[str]) -> dict[str, int]:
    os.setegid(uid)
    os.seteuid(uid)  # without root's capabilities, too: credentials(7), capabilities(7)
    try:
        return {path: open_promised(path) for path in files}
    finally:
        os.seteuid(0)
        os.setegid(0)


def _leave(libraries: Sequence[str], files: Iterable[str], uid: int) -> None:
    if platform.machine() not in _NR_PIVOT_ROOT:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    _check(_libc.unshare(_CLONE_NEWNS))
    os.umask(0o022)  # the folders on the way are for every user
    pivots = _make_private()
    trees: list[tuple[str, int]] = []
    try:
        inside = ""
        for path in sorted(libraries):
            if not (inside and path.startswith(f"{inside}/")):
                inside = path
                attributes = _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV
                trees.append((path, _copy_of(_AT_FDCWD, path, attributes)))
        # Opened in here: of another namespace's mounts no copy can be had.
        for path, fd in _open_as(uid, files).items():
            # Where it is, and where a link leads to it.
            for place in sorted({path, str(Path(f"/proc/self/fd/{fd}").readlink())}):
                trees.append((place, _copy_of(fd, "", _ATTR_RDONLY | _ATTR_NOSUID)))
            os.close(fd)
        _mount_empty(_STAGE)
        try:
            for path, fd in trees:
                _put(fd, _STAGE + path)
        except OSError:
            _libc.umount2(_STAGE.encode(), _MNT_DETACH)
            raise
    finally:
        for _, fd in trees:
            os.close(fd)
    _switch(pivots)


def _make_private() -> bool:
    # So that nothing that is mounted here comes to be seen outside. True if the root itself is a
    # mount, as everywhere but under chroot(8).
    flags = ctypes.c_ulong(_MS_REC | _MS_PRIVATE)
    if _libc.mount(None, b"/", None, flags, None) == 0:
        return True
    if ctypes.get_errno() != errno.EINVAL:
        _check(-1)
    _check(_libc.mount(None, _STAGE.encode(), None, flags, None))
    return False


def _copy_of(fd: int, path: str, attributes: int) -> int:
    # A mount of it that stands nowhere yet.
    empty = 0 if path else _AT_EMPTY_PATH
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE | empty
    tree = _call(_NR_OPEN_TREE, fd, path.encode(), flags)
    try:
        words = struct.pack("QQQQ", attributes, 0, 0, 0)  # struct mount_attr
        where = _AT_EMPTY_PATH | _AT_RECURSIVE
        _call(_NR_MOUNT_SETATTR, tree, b"", where, words, len(words))
    except OSError:
        os.close(tree)
        raise
    return tree


def _mount_empty(where: str) -> None:
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _check(_libc.mount(b"kmind", where.encode(), b"tmpfs", flags, b"mode=755,size=1m"))


def _put(tree: int, where: str) -> None:
    place = Path(where)
    if os.path.realpath(place.parent) != str(place.parent):
        return  # a link among the libraries: it leads to the other place
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not place.exists():
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            place.mkdir(mode=0o755)
        else:
            place.touch(0o444)
    _call(_NR_MOVE_MOUNT, tree, b"", _AT_FDCWD, where.encode(), _MOVE_MOUNT_F_EMPTY_PATH)


def _switch(pivots: bool) -> None:
    os.chdir(_STAGE)
    if pivots:
        _call(_NR_PIVOT_ROOT[platform.machine()], b".", b".")
        _check(_libc.umount2(b".", _MNT_DETACH))  # the old root, which lies on top now
    else:
        os.chroot(".")
    os.chdir("/")


def _call(number: int, *arguments: int | bytes) -> int:
    # The C library has no names for these.
    wide = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    return _check(int(_libc.syscall(ctypes.c_long(number), *wide)))


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
