# SPDX-License-Identifier: Apache-2.0
"""From the negative error numbers of the kernel and libbpf to kmind's exceptions."""

import errno
import os

from kmind.errors import BpfError, KmindError, NotSupportedError, PrivilegeError

__all__ = ["ENOTSUPP", "check", "error_from", "strerror"]

ENOTSUPP = 524  # the kernel's own, which no errno.h has

_REFUSED = {errno.EPERM, errno.EACCES}
_LACKING = {errno.ENOSYS, errno.EOPNOTSUPP, ENOTSUPP}


def strerror(number: int) -> str:
    """What an error number, of either sign, means."""
    number = abs(number)
    return "not supported by this kernel" if number == ENOTSUPP else os.strerror(number)


def error_from(number: int, what: str, hint: str = "") -> KmindError:
    """The exception for an error number, of either sign, of a failed call.

    ``what`` says what was tried, as "cannot pin map x at y". EPERM and EACCES become
    PrivilegeError; ENOSYS, EOPNOTSUPP and ENOTSUPP NotSupportedError; others BpfError.
    """
    number = abs(number)
    message = f"{what}: {strerror(number)}"
    if number in _REFUSED:
        as_root = "the kernel refuses it even to root: see kmind doctor for lockdown"
        return PrivilegeError(message, hint=hint or ("run as root" if os.geteuid() else as_root))
    if number in _LACKING:
        return NotSupportedError(message, hint=hint or "see kmind doctor")
    return BpfError(message, hint=hint)


def check(result: int, what: str, hint: str = "") -> int:
    """Return ``result``, or raise what `error_from` makes of it if it is negative."""
    if result < 0:
        raise error_from(result, what, hint)
    return result
