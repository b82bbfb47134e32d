# SPDX-License-Identifier: Apache-2.0
"""From the negative error numbers of the kernel and libbpf to kmind's exceptions."""

import errno
import os
import re
from pathlib import Path

from kmind.errors import BpfError, KmindError, NotSupportedError, PrivilegeError

__all__ = ["ENOTSUPP", "PIN_HINT", "check", "error_from", "strerror"]

ENOTSUPP = 524  # the kernel's own, which no errno.h has
PIN_HINT = "as root, on a bpf file system: mount -t bpf -o mode=700 bpf /sys/fs/bpf"

_REFUSED = {errno.EPERM, errno.EACCES}
_LACKING = {errno.ENOSYS, errno.EOPNOTSUPP, ENOTSUPP}


def strerror(number: int) -> str:
    """Return the message of an error number of either sign."""
    number = abs(number)
    return "not supported by this kernel" if number == ENOTSUPP else os.strerror(number)


def error_from(number: int, what: str, hint: str | None = None) -> KmindError:
    """The exception for an error number, of either sign, of a failed call.

    ``what`` says what was tried, as "cannot pin map x at y". EPERM and EACCES become
    PrivilegeError; ENOSYS, EOPNOTSUPP and ENOTSUPP NotSupportedError; others BpfError.
    If ``hint`` is None, a general one is given.
    """
    number = abs(number)
    message = f"{what}: {strerror(number)}"
    if number in _REFUSED:
        if hint is None:
            hint = "run as root" if os.geteuid() else "see kmind doctor for what is refused to root"
        return PrivilegeError(message, hint=_filtered() or hint)
    if number in _LACKING:
        hint = "see kmind doctor" if hint is None else hint
        return NotSupportedError(message, hint=_filtered() or hint)
    return BpfError(message, hint=hint or "")


def _filtered() -> str:
    # Containers and units may refuse bpf(2) by a filter, with any error (seccomp(2)).
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return ""
    if os.geteuid() or not re.search(r"^Seccomp:\s*[12]$", status, re.MULTILINE):
        return ""
    return (
        "a filter on system calls is in force and may be why; let it pass bpf and perf_event_open"
    )


def check(result: int, what: str, hint: str | None = None) -> int:
    """Return ``result``, or raise what `error_from` makes of it if it is negative."""
    if result < 0:
        raise error_from(result, what, hint)
    return result
