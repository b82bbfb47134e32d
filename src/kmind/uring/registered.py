# SPDX-License-Identifier: Apache-2.0
"""Files and buffers that a ring knows by index, and restrictions that it cannot lose again.

A driver's process makes its ring disabled, registers the descriptors that it was given, restricts
the ring, and enables it: from then on nothing but these files and operations can be reached by it,
whatever the process turns into. Source: io_uring_register(2).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from kmind.errors import UsageError
from kmind.uring import _syscall
from kmind.uring.layout import (
    IOVEC,
    RESTRICTION,
    RSRC_UPDATE,
    Op,
    Register,
    Restrict,
    SqeFlag,
)
from kmind.uring.ring import Ring

__all__ = ["register_buffers", "register_files", "restrict", "update_files"]


def register_files(ring: Ring, fds: Sequence[int]) -> None:
    """Give these files the indices from 0 on; -1 leaves an index free for `update_files`.

    The ring keeps the files open, as long as it lives. Only once.
    """
    table = _descriptors(fds)
    _syscall.register(ring.fd, Register.FILES, table, len(table))


def update_files(ring: Ring, first: int, fds: Sequence[int]) -> None:
    """Put other files at the indices from ``first`` on; -1 takes one away.

    What is in flight goes on with the file that it had.
    """
    table = _descriptors(fds)
    update = np.zeros(1, RSRC_UPDATE)
    update["data"] = _syscall.address_of(table)
    try:
        update["offset"] = first
    except OverflowError:
        raise UsageError(f"there is no registered file {first}") from None
    _syscall.register(ring.fd, Register.FILES_UPDATE, update, len(table))


def _descriptors(fds: Sequence[int]) -> npt.NDArray[np.int32]:
    try:
        table = np.array(fds, np.int32)
    except (OverflowError, ValueError, TypeError) as error:
        raise UsageError(f"these are no descriptors: {error}") from None
    if not len(table) or table.min() < -1:
        raise UsageError(f"these are no descriptors: {list(fds)}", hint="give one at least")
    return table


def register_buffers(ring: Ring, spans: Sequence[tuple[int, int]]) -> None:
    """Give buffers, each an address and a size in bytes, the indices from 0 on. Only once.

    Their pages are locked in memory, and count against RLIMIT_MEMLOCK unless root has them. One
    buffer has at most 1 GiB, and may hold many: requests name addresses inside of it.
    """
    try:
        table = np.array(list(spans), IOVEC)
    except (OverflowError, ValueError, TypeError) as error:
        raise UsageError(f"these are no buffers: {error}") from None
    _syscall.register(ring.fd, Register.BUFFERS, table, len(table))


def restrict(ring: Ring, ops: Collection[Op], *, flags: int = 0) -> None:
    """Let a disabled ring, once it is enabled, do these operations on registered files alone.

    Nothing can be registered then, nor can this be undone. Every entry needs the flag FIXED_FILE,
    even one without a file; others only if ``flags`` has them. Another entry completes with
    -EACCES. ASYNC_CANCEL is always allowed, for `Ring.close` needs it.
    """
    allowed = sorted({Op.ASYNC_CANCEL, *ops})
    table = np.zeros(len(allowed) + 2, RESTRICTION)
    table["opcode"] = [
        *[Restrict.SQE_OP] * len(allowed), Restrict.SQE_FLAGS_REQUIRED, Restrict.SQE_FLAGS_ALLOWED
    ]  # fmt: skip
    table["which"] = [*allowed, SqeFlag.FIXED_FILE, SqeFlag.FIXED_FILE | flags]
    _syscall.register(ring.fd, Register.RESTRICTIONS, table, len(table))
