# SPDX-License-Identifier: Apache-2.0
"""Find the kernel's landlock version. Numbers: linux/landlock.h, the generic system call table."""

import ctypes
import errno
import os

from kmind.errors import NotSupportedError

__all__ = ["landlock_version"]

_NR_CREATE_RULESET = 444
_CREATE_RULESET_VERSION = 1 << 0

_libc = ctypes.CDLL(None, use_errno=True)


def landlock_version() -> int:
    """The version (ABI) of landlock that the kernel has, from 1.

    Raises NotSupportedError where there is none, and says why.
    """
    version = int(_libc.syscall(_NR_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION))
    if version >= 0:
        return version
    number = ctypes.get_errno()
    if number == errno.EOPNOTSUPP:
        cause, hint = "it is switched off", "add landlock to lsm= on the kernel's command line"
    elif number == errno.ENOSYS:
        cause, hint = "the kernel lacks it", "use a kernel with CONFIG_SECURITY_LANDLOCK"
    else:
        cause, hint = os.strerror(number), "a filter on system calls may refuse it"
    raise NotSupportedError(f"landlock cannot be used: {cause}", hint=hint)
