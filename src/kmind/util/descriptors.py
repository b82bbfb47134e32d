# SPDX-License-Identifier: Apache-2.0
"""Open files of this process: as many as it may have, and a refusal before there are none left."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

from kmind.errors import KmindError

__all__ = ["raise_soft_limit", "refuse_where_short"]


def raise_soft_limit() -> None:
    """Raise the soft limit of open files (RLIMIT_NOFILE) to the hard one, which takes no privilege.

    The soft one is 1,024 by default for the sake of select(2), which is not used here. Programs
    that are started inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def refuse_where_short(need: int, spare: int, what: str) -> None:
    """Raise KmindError unless ``need`` descriptors more leave ``spare`` ones for other uses.

    ``what`` is what they are for, as the error says it. Linux counts them in /proc (proc(5)).
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        used = len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        return  # none left to look with, or no /proc: what follows fails by itself
    if most == resource.RLIM_INFINITY or used + need + spare <= most:
        return
    raise KmindError(
        f"too few open files are allowed for {what}: {used} of {most} are in use, it takes "
        f"{need}, and {spare} are kept for clients and files",
        hint="raise LimitNOFILE= of the service, or: ulimit -n",
    )
