# SPDX-License-Identifier: Apache-2.0
"""Making a ring: the flags that this kernel knows, and the memory that is shared with it.

Sources: io_uring_setup(2); the kernel's include/uapi/linux/io_uring.h.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kmind.errors import NotSupportedError, UsageError
from kmind.uring import _syscall
from kmind.uring.layout import CQE, CQE32, PARAMS, SQE, SQE128, Feature, Setup

__all__ = ["MOST_ENTRIES", "Memory", "set_up"]

MOST_ENTRIES = 32768
"""Entries that a ring can have (IORING_MAX_ENTRIES); it can have twice as many completions."""

_RINGS, _SQES = 0, 0x10000000  # IORING_OFF_...
_NEEDED = Feature.SINGLE_MMAP | Feature.NODROP | Feature.SUBMIT_STABLE | Feature.EXT_ARG
# Tried in this order, for the kernel says EINVAL to a flag that it does not know: completions only
# where they are waited for, by one thread (6.1); without interrupts (5.19). Beside them: no array
# of indices (6.6), and a bad entry does not end a batch (5.18).
_TRIES = (
    Setup.SUBMIT_ALL | Setup.SINGLE_ISSUER | Setup.DEFER_TASKRUN | Setup.NO_SQARRAY,
    Setup.SUBMIT_ALL | Setup.SINGLE_ISSUER | Setup.DEFER_TASKRUN,
    Setup.SUBMIT_ALL | Setup.COOP_TASKRUN,
    Setup.SUBMIT_ALL,
    Setup(0),
)


@dataclass(frozen=True)
class Memory:
    """A ring's descriptor and memory.

    ``sq`` and ``cq`` are indices of ``words``: head, tail, and flags or the number of completions
    that were lost.
    """

    fd: int
    flags: Setup
    entries: int
    completions: int
    sqe: np.dtype[np.void]
    cqe: np.dtype[np.void]
    words: memoryview
    sq: tuple[int, int, int]
    cq: tuple[int, int, int]
    sqes: npt.NDArray[np.uint64]
    cqes: npt.NDArray[np.void]
    regions: tuple[_syscall.Region, _syscall.Region]

    def release(self) -> None:
        """Give all back."""
        for region in self.regions:
            region.release()
        os.close(self.fd)


def set_up(entries: int, completions: int, wanted: Iterable[Setup]) -> Memory:
    """Make a ring with these flags, and what this kernel has of those that save time.

    ``completions`` may be 0: the kernel's choice.
    """
    if not 1 <= entries <= MOST_ENTRIES:
        raise UsageError(f"a ring cannot have {entries} entries", hint=f"give 1 to {MOST_ENTRIES}")
    if completions and not entries <= completions <= 2 * MOST_ENTRIES:
        raise UsageError(
            f"a ring of {entries} entries cannot have {completions} completions",
            hint=f"give {entries} to {2 * MOST_ENTRIES}",
        )
    flags = Setup.CQSIZE if completions else Setup(0)
    for flag in wanted:
        flags |= flag
    fd, params = _try_flags(entries, completions, flags)
    try:
        return _map(fd, params)
    except BaseException:
        os.close(fd)
        raise


def _map(fd: int, params: np.void) -> Memory:
    flags = Setup(int(params["flags"]))
    entries, completions = int(params["sq_entries"]), int(params["cq_entries"])
    sqe = SQE128 if flags & Setup.SQE128 else SQE
    cqe = CQE32 if flags & Setup.CQE32 else CQE
    sq, cq = params["sq_off"], params["cq_off"]
    start, array = int(cq["cqes"]), int(sq["array"])
    end = start + completions * cqe.itemsize
    rings = _syscall.Region(fd, _RINGS, max(end, array + 4 * entries))
    slots = _syscall.Region(fd, _SQES, entries * sqe.itemsize)
    if not flags & Setup.NO_SQARRAY:
        rings.bytes[array : array + 4 * entries].view("<u4")[:] = np.arange(entries)
    return Memory(
        fd=fd,
        flags=flags,
        entries=entries,
        completions=completions,
        sqe=sqe,
        cqe=cqe,
        # One load or store each; a memoryview's cost half of an array's.
        words=rings.words,
        sq=_places(sq, "head", "tail", "flags"),
        cq=_places(cq, "head", "tail", "overflow"),
        # Whole words, for numpy copies structured entries field by field.
        sqes=slots.bytes.view("<u8").reshape(entries, -1),
        cqes=rings.bytes[start:end].view(cqe),
        regions=(rings, slots),
    )


def _places(offsets: np.void, *names: str) -> tuple[int, int, int]:
    first, second, third = (int(offsets[name]) // 4 for name in names)
    return first, second, third


def _try_flags(entries: int, completions: int, wanted: Setup) -> tuple[int, np.void]:
    number = 0
    for tried in _TRIES:
        params = np.zeros(1, PARAMS)
        params["flags"], params["cq_entries"] = int(wanted | tried), completions
        fd = _syscall.setup(entries, params)
        if fd >= 0:
            break
        number = -fd
        if number != errno.EINVAL:
            raise _syscall.refusal(number)
    else:
        raise NotSupportedError(
            f"io_uring_setup: {os.strerror(number)}",
            hint="the kernel does not know entries of 128 bytes (5.19), or disabled rings (5.10)",
        )
    if lacking := _NEEDED & ~Feature(int(params["features"][0])):
        os.close(fd)
        raise NotSupportedError(
            f"this kernel's io_uring lacks {lacking.name}", hint="Linux 5.11 brought all of it"
        )
    return fd, params[0]
