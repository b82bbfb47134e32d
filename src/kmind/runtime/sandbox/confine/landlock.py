# SPDX-License-Identifier: Apache-2.0
"""Taking all files, the network and other processes out of reach, by landlock(7).

A second fence beside the filter on system calls: it holds for whatever way leads to a
file. Numbers are those of linux/landlock.h and of the generic table of system calls;
each part is used from the version (ABI) of landlock on that has it.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

from kmind.bpf.landlock import landlock_version
from kmind.runtime.sandbox.confine.own_root import open_promised

__all__ = ["restrict"]

_NR_CREATE_RULESET = 444
_NR_ADD_RULE = 445
_NR_RESTRICT_SELF = 446
_RULE_PATH_BENEATH = 1

_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
# The rights over files that each version knows: execute up to make_sym, refer, truncate,
# and ioctl on devices.
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_NET_SINCE, _NET_RIGHTS = 4, 0b11  # bind and connect of TCP
_SCOPE_SINCE, _SCOPES = 6, 0b11  # abstract unix sockets, and signals, of others

_libc = ctypes.CDLL(None, use_errno=True)


def restrict(files: Iterable[str] = (), *, network: bool = False) -> None:
    """From now on open nothing but ``files``, those only to read, for good.

    A folder stands for all below it. Unless ``network``, TCP is refused; signals and
    abstract unix sockets reach no process outside. What is open stays open. The
    caller has set no_new_privs. Raises NotSupportedError where the kernel has no
    landlock, KmindError for a file that is not there, OSError for what is refused.
    """
    version = landlock_version()
    rights = max(have for since, have in _FILE_RIGHTS.items() if since <= version)
    net = _NET_RIGHTS if version >= _NET_SINCE and not network else 0
    scopes = _SCOPES if version >= _SCOPE_SINCE else 0
    # struct landlock_ruleset_attr has grown: an older kernel takes no longer one.
    words = 3 if version >= _SCOPE_SINCE else 2 if version >= _NET_SINCE else 1
    attributes = struct.pack("QQQ", rights, net, scopes)[: 8 * words]
    rules = _call(_NR_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path in files:
            _let_read(rules, path)
        _call(_NR_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _let_read(rules: int, path: str) -> None:
    fd = open_promised(path)
    try:
        folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        rights = _READ_FILE | (_READ_DIR if folder else 0)
        # struct landlock_path_beneath_attr is packed.
        _call(_NR_ADD_RULE, rules, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
    finally:
        os.close(fd)


def _call(number: int, *arguments: int | bytes | None) -> int:
    # The C library has no names for these.
    wide = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *wide))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
