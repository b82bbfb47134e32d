# SPDX-License-Identifier: Apache-2.0
"""Entries for a ring, many at once: a function for each operation.

``user_data``, an integer or an array, says how many entries there are, and comes back in their
completions. Every other argument is one value for all, or an array with one for each. ``flags`` are
those of `kmind.uring.layout.SqeFlag`; with FIXED_FILE ``fd`` is an index of registered files. With
``out``, as in numpy, entries are made there (64 or 128 bytes each), not in a new array.

Addresses are those of memory that the caller keeps until the completion is there. Nothing is
checked that the kernel checks: it answers a bad address or descriptor in the completion.

Source: io_uring_enter(2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kmind.errors import UsageError
from kmind.uring.layout import (
    CANCEL_ALL,
    CANCEL_ANY,
    FSYNC_DATASYNC,
    SQE,
    SQE128,
    TIMEOUT_ABS,
    TIMESPEC,
    Op,
)

__all__ = [
    "Entries",
    "Ints",
    "cancel",
    "cancel_all",
    "fallocate",
    "fsync",
    "nop",
    "poll",
    "read",
    "read_fixed",
    "timeout",
    "timespecs",
    "uring_cmd",
    "write",
    "write_fixed",
]

Entries: TypeAlias = npt.NDArray[np.void]
"""Entries, completions: a structured array of one dimension."""

Ints: TypeAlias = int | npt.NDArray[np.integer[Any]]
"""A value for all entries, or an array of one for each."""


def _prepared(
    op: Op,
    user_data: Ints,
    out: Entries | None,
    fields: Mapping[str, Ints],
    dtype: np.dtype[np.void] = SQE,
) -> Entries:
    count = len(user_data) if isinstance(user_data, np.ndarray) else 1
    if out is None:
        out = np.zeros(count, dtype)
    elif out.dtype not in (SQE, SQE128) or not out.flags.c_contiguous or out.shape != (count,):
        raise UsageError(f"out must have {count} entries of 64 or 128 bytes, next to each other")
    else:
        out.view(np.uint64)[:] = 0
    try:
        out["opcode"], out["user_data"] = op, user_data
        for name, value in fields.items():
            out[name] = value
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(
            f"{count} entries of {op.name} cannot be made: {error}",
            hint="user_data has one for each entry; other arrays are as long",
        ) from None
    return out


def _transfer(
    op: Op,
    fd: Ints,
    offset: Ints,
    address: Ints,
    length: Ints,
    user_data: Ints,
    flags: Ints,
    out: Entries | None,
    **more: Ints,
) -> Entries:
    words = {"fd": fd, "off": offset, "addr": address, "len": length, "flags": flags, **more}
    return _prepared(op, user_data, out, words)


def nop(user_data: Ints, *, flags: Ints = 0, out: Entries | None = None) -> Entries:
    """Do nothing."""
    return _prepared(Op.NOP, user_data, out, {"flags": flags})


def read(
    fd: Ints,
    offset: Ints,
    address: Ints,
    length: Ints,
    user_data: Ints,
    *,
    flags: Ints = 0,
    out: Entries | None = None,
) -> Entries:
    """Read at ``offset``; with -1 where the file stands."""
    return _transfer(Op.READ, fd, offset, address, length, user_data, flags, out)


def write(
    fd: Ints,
    offset: Ints,
    address: Ints,
    length: Ints,
    user_data: Ints,
    *,
    flags: Ints = 0,
    out: Entries | None = None,
) -> Entries:
    """Write at ``offset``; with -1 where the file stands."""
    return _transfer(Op.WRITE, fd, offset, address, length, user_data, flags, out)


def read_fixed(
    fd: Ints,
    offset: Ints,
    address: Ints,
    length: Ints,
    user_data: Ints,
    *,
    buffer: Ints = 0,
    flags: Ints = 0,
    out: Entries | None = None,
) -> Entries:
    """Read into an address inside of the registered buffer with that index."""
    return _transfer(
        Op.READ_FIXED, fd, offset, address, length, user_data, flags, out, buf_index=buffer
    )


def write_fixed(
    fd: Ints,
    offset: Ints,
    address: Ints,
    length: Ints,
    user_data: Ints,
    *,
    buffer: Ints = 0,
    flags: Ints = 0,
    out: Entries | None = None,
) -> Entries:
    """Write from an address inside of the registered buffer with that index."""
    return _transfer(
        Op.WRITE_FIXED, fd, offset, address, length, user_data, flags, out, buf_index=buffer
    )


def fsync(
    fd: Ints,
    user_data: Ints,
    *,
    data_only: bool = False,
    flags: Ints = 0,
    out: Entries | None = None,
) -> Entries:
    """Bring a file to its disk, but for writes that are still in flight.

    ``data_only`` makes it fdatasync(2), and not fsync(2).
    """
    what = FSYNC_DATASYNC if data_only else 0
    return _prepared(Op.FSYNC, user_data, out, {"fd": fd, "op_flags": what, "flags": flags})


def fallocate(
    fd: Ints,
    mode: Ints,
    offset: Ints,
    length: Ints,
    user_data: Ints,
    *,
    flags: Ints = 0,
    out: Entries | None = None,
) -> Entries:
    """Allocate, free or zero a range of a file; ``mode`` has the flags of the system call."""
    words = {"fd": fd, "off": offset, "addr": length, "len": mode, "flags": flags}
    return _prepared(Op.FALLOCATE, user_data, out, words)


def poll(
    fd: Ints, events: Ints, user_data: Ints, *, flags: Ints = 0, out: Entries | None = None
) -> Entries:
    """Complete once when a file has one of these events, or an error: the result tells which."""
    return _prepared(Op.POLL_ADD, user_data, out, {"fd": fd, "op_flags": events, "flags": flags})


def uring_cmd(
    fd: Ints,
    cmd_op: Ints,
    user_data: Ints,
    *,
    cmd: npt.NDArray[np.uint8] | None = None,
    flags: Ints = 0,
    out: Entries | None = None,
) -> Entries:
    """Send a command of the file's own.

    ``cmd`` holds its bytes: one row for all entries, or one for each, of at most 16 bytes, or at
    most 80 in entries of 128. Or write them into the field ``cmd`` of what is returned.
    """
    width = 0 if cmd is None else cmd.shape[-1]
    dtype = SQE if width <= SQE["cmd"].shape[0] else SQE128
    words = {"fd": fd, "cmd_op": cmd_op, "flags": flags}
    entries = _prepared(Op.URING_CMD, user_data, out, words, dtype)
    if cmd is not None:
        try:
            entries["cmd"][:, :width] = cmd
        except ValueError:
            raise UsageError(
                f"{width} bytes of a command do not fit",
                hint="16 fit an entry, 80 one of a ring with big_sqe=True",
            ) from None
    return entries


def timespecs(nanoseconds: npt.ArrayLike) -> Entries:
    """Times for `timeout`, from nanoseconds."""
    whole = np.atleast_1d(np.asarray(nanoseconds, np.int64))
    times = np.zeros(len(whole), TIMESPEC)
    times["tv_sec"], times["tv_nsec"] = np.divmod(whole, 1_000_000_000)
    return times


def timeout(
    times: Entries,
    user_data: Ints,
    *,
    absolute: bool = False,
    flags: Ints = 0,
    out: Entries | None = None,
) -> Entries:
    """Complete after these times, with -ETIME; cancelled before, with -ECANCELED.

    ``times``, of `timespecs`, must stay until they are submitted. ``absolute``: on the clock of
    time.monotonic_ns, not from now on.
    """
    if times.dtype != TIMESPEC or not times.flags.c_contiguous:
        raise UsageError("times of a timeout are made by kmind.uring.prepare.timespecs")
    places = times.ctypes.data + TIMESPEC.itemsize * np.arange(len(times))
    kind = TIMEOUT_ABS if absolute else 0
    words: dict[str, Ints] = {"addr": places, "len": 1, "op_flags": kind, "flags": flags}
    return _prepared(Op.TIMEOUT, user_data, out, words)


def cancel(
    target: Ints, user_data: Ints, *, flags: Ints = 0, out: Entries | None = None
) -> Entries:
    """Cancel the request with user_data ``target``, which completes with -ECANCELED.

    The result is 0; -ENOENT where there is none; -EALREADY where it is too late to stop it.
    """
    words = {"fd": -1, "addr": target, "flags": flags}
    return _prepared(Op.ASYNC_CANCEL, user_data, out, words)


def cancel_all(user_data: int, *, flags: Ints = 0) -> Entries:
    """Cancel all requests of the ring; the result is their number."""
    words: dict[str, Ints] = {"fd": -1, "op_flags": CANCEL_ALL | CANCEL_ANY, "flags": flags}
    return _prepared(Op.ASYNC_CANCEL, user_data, None, words)
