# SPDX-License-Identifier: Apache-2.0
"""Memory ordering for the user half of the rings.

x86 keeps loads in order with loads and stores with stores, which is all that
the rings need. Where the architecture does not (arm64), ``fence`` issues a full
barrier by ``membarrier(2)`` (MEMBARRIER_CMD_PRIVATE_EXPEDITED: a barrier on the
caller too), once a batch: after the ``commit`` words were read and before the
payload is, before ``tail`` gives slots back, and between a recommendation's
words and ``cq_tail``. On the kernel's side the agent publishes with an atomic
exchange there (see ``kmind/arena.h``).

Going to sleep needs a store before a load on x86 too (need_wakeup, then the
rings); the agent's timer looks for readers that were missed, so no barrier is
paid for on the way into the kernel, and a lost wake-up costs one tick at most.
"""

from __future__ import annotations

import ctypes
import os
import platform

from kmind.errors import NotSupportedError

__all__ = ["fence"]

_STRONG = platform.machine() in ("x86_64", "i686", "AMD64")
# linux/membarrier.h; the number is that of the generic table (arm64, riscv).
_NR_MEMBARRIER = 283
_PRIVATE_EXPEDITED = 1 << 3
_REGISTER_PRIVATE_EXPEDITED = 1 << 4

_registered = False


def _barrier() -> None:
    global _registered
    libc = ctypes.CDLL(None, use_errno=True)
    if not _registered:
        if libc.syscall(_NR_MEMBARRIER, _REGISTER_PRIVATE_EXPEDITED, 0, 0) != 0:
            raise NotSupportedError(
                f"membarrier(2): {os.strerror(ctypes.get_errno())}",
                hint="the rings need it on this architecture; use a kernel with CONFIG_MEMBARRIER",
            )
        _registered = True
    libc.syscall(_NR_MEMBARRIER, _PRIVATE_EXPEDITED, 0, 0)


def fence() -> None:
    """Order what was read or written before with what comes after."""
    if not _STRONG:
        _barrier()
