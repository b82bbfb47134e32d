# SPDX-License-Identifier: Apache-2.0
"""Calls that Python 3.11 lacks: waits that end to some microseconds on time, and fallocate(2).

select.poll counts milliseconds. The kernel lets ppoll(2) end late by a thousandth of its time
(fs/select.c, __estimate_accuracy), or by the thread's timer slack, which is 50 us unless it is set.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence

import numpy as np

__all__ = ["POLLIN", "Poll", "fallocate", "set_timer_slack"]

POLLIN = 1
"""There is something to read."""

_PR_SET_TIMERSLACK = 29  # include/uapi/linux/prctl.h
_POLLFD = np.dtype([("fd", "<i4"), ("events", "<i2"), ("revents", "<i2")])
_LONG_NS = 20_000_000
_SECOND = 10**9

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ppoll.argtypes = [ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p]
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class Poll:
    """Waits for a few descriptors; -1 is passed over, as ppoll(2) does."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._table = np.zeros(len(descriptors), _POLLFD)
        self._table["fd"] = descriptors
        self._time = np.zeros(2, np.int64)
        self._at, self._time_at = self._table.ctypes.data, self._time.ctypes.data

    def wait(self, events: Sequence[int], timeout_ns: int | None = None) -> list[int]:
        """The events of each: what was asked for, or an error; all 0 after ``timeout_ns``.

        It may come back early, after nine tenths of a long time or for a signal: so ask again.
        """
        self._table["events"] = events
        until = 0
        if timeout_ns is not None:
            if timeout_ns > _LONG_NS:
                timeout_ns -= timeout_ns // 10  # what is left then ends on time
            self._time[:] = divmod(max(timeout_ns, 0), _SECOND)
            until = self._time_at
        if _libc.ppoll(self._at, len(self._table), until, None) < 0:
            number = ctypes.get_errno()
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number))
            return [0] * len(self._table)
        told: list[int] = self._table["revents"].tolist()
        return told


def set_timer_slack(ns: int = 1) -> bool:
    """Have the kernel wake this thread within ``ns`` of its time; False if a filter refuses."""
    done: int = _libc.prctl(_PR_SET_TIMERSLACK, ns, 0, 0, 0)
    return done == 0


def fallocate(file: int, mode: int, offset: int, length: int) -> None:
    """Free or zero a range of a file; ``mode`` has the flags of the system call."""
    if _libc.fallocate(file, mode, offset, length) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
