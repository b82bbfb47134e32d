# SPDX-License-Identifier: Apache-2.0
"""Layout of io_uring's entries and arguments: include/uapi/linux/io_uring.h as numpy dtypes.

Fields of C unions overlap. Of a union only those members are named that kmind uses; a name that
the header has several times for one word (``fsync_flags``, ``timeout_flags``, ...) is ``op_flags``.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

import numpy as np

__all__ = [
    "CANCEL_ALL",
    "CANCEL_ANY",
    "CQE",
    "CQE32",
    "FSYNC_DATASYNC",
    "GETEVENTS_ARG",
    "IOVEC",
    "PARAMS",
    "RESTRICTION",
    "RSRC_UPDATE",
    "SQE",
    "SQE128",
    "TIMEOUT_ABS",
    "TIMESPEC",
    "Enter",
    "Feature",
    "Op",
    "Register",
    "Restrict",
    "Setup",
    "SqFlag",
    "SqeFlag",
]


def _sqe(size: int) -> np.dtype[np.void]:
    fields = {
        "opcode": ("u1", 0),
        "flags": ("u1", 1),
        "ioprio": ("<u2", 2),
        "fd": ("<i4", 4),
        "off": ("<i8", 8),  # -1: where the file stands
        "cmd_op": ("<u4", 8),
        "addr": ("<u8", 16),
        "len": ("<u4", 24),
        "op_flags": ("<u4", 28),
        "user_data": ("<u8", 32),
        "buf_index": ("<u2", 40),
        "personality": ("<u2", 42),
        "file_index": ("<u4", 44),
        "addr3": ("<u8", 48),
        "cmd": (f"({size - 48},)u1", 48),
    }
    formats, offsets = zip(*fields.values(), strict=True)
    return np.dtype(
        {"names": list(fields), "formats": formats, "offsets": offsets, "itemsize": size}
    )


SQE = _sqe(64)
"""struct io_uring_sqe; ``cmd`` has 16 bytes."""

SQE128 = _sqe(128)
"""The same with IORING_SETUP_SQE128: ``cmd`` has 80 bytes."""

CQE = np.dtype([("user_data", "<u8"), ("res", "<i4"), ("flags", "<u4")])
"""struct io_uring_cqe; ``res`` is the result, or a negative error number."""

CQE32 = np.dtype([*((name, CQE[name]) for name in CQE.names or ()), ("big_cqe", "<u8", (2,))])
"""The same with IORING_SETUP_CQE32."""

_SQ_OFFSETS = np.dtype(
    [
        *((name, "<u4") for name in ("head", "tail", "ring_mask", "ring_entries", "flags")),
        *((name, "<u4") for name in ("dropped", "array", "resv1")),
        ("user_addr", "<u8"),
    ]
)
_CQ_OFFSETS = np.dtype(
    [
        *((name, "<u4") for name in ("head", "tail", "ring_mask", "ring_entries", "overflow")),
        *((name, "<u4") for name in ("cqes", "flags", "resv1")),
        ("user_addr", "<u8"),
    ]
)
PARAMS = np.dtype(
    [
        *((name, "<u4") for name in ("sq_entries", "cq_entries", "flags", "sq_thread_cpu")),
        *((name, "<u4") for name in ("sq_thread_idle", "features", "wq_fd")),
        ("resv", "<u4", (3,)),
        ("sq_off", _SQ_OFFSETS),
        ("cq_off", _CQ_OFFSETS),
    ]
)
"""struct io_uring_params."""

GETEVENTS_ARG = np.dtype(
    [("sigmask", "<u8"), ("sigmask_sz", "<u4"), ("min_wait_usec", "<u4"), ("ts", "<u8")]
)
"""struct io_uring_getevents_arg; ``ts`` is the address of a `TIMESPEC`, or 0 to wait for ever."""

TIMESPEC = np.dtype([("tv_sec", "<i8"), ("tv_nsec", "<i8")])
"""struct __kernel_timespec."""

RESTRICTION = np.dtype([("opcode", "<u2"), ("which", "u1"), ("resv", "u1"), ("resv2", "<u4", (3,))])
"""struct io_uring_restriction; ``which`` is the operation, or the flags."""

RSRC_UPDATE = np.dtype([("offset", "<u4"), ("resv", "<u4"), ("data", "<u8")])
"""struct io_uring_rsrc_update."""

IOVEC = np.dtype([("base", "<u8"), ("len", "<u8")])
"""struct iovec."""


class Op(IntEnum):
    """enum io_uring_op: those that `kmind.uring.prepare` knows."""

    NOP = 0
    FSYNC = 3
    READ_FIXED = 4
    WRITE_FIXED = 5
    POLL_ADD = 6
    TIMEOUT = 11
    ASYNC_CANCEL = 14
    FALLOCATE = 17
    READ = 22
    WRITE = 23
    URING_CMD = 46


class SqeFlag(IntFlag):
    """Flags of an entry (IOSQE_...)."""

    FIXED_FILE = 1 << 0
    IO_DRAIN = 1 << 1
    IO_LINK = 1 << 2
    IO_HARDLINK = 1 << 3
    ASYNC = 1 << 4


class Setup(IntFlag):
    """Flags of io_uring_setup(2) (IORING_SETUP_...)."""

    CQSIZE = 1 << 3
    R_DISABLED = 1 << 6
    SUBMIT_ALL = 1 << 7
    COOP_TASKRUN = 1 << 8
    SQE128 = 1 << 10
    CQE32 = 1 << 11
    SINGLE_ISSUER = 1 << 12
    DEFER_TASKRUN = 1 << 13
    NO_SQARRAY = 1 << 16


class Feature(IntFlag):
    """Features that io_uring_setup(2) returns (IORING_FEAT_...)."""

    SINGLE_MMAP = 1 << 0
    NODROP = 1 << 1
    SUBMIT_STABLE = 1 << 2
    EXT_ARG = 1 << 8


class Enter(IntFlag):
    """Flags of io_uring_enter(2) (IORING_ENTER_...)."""

    GETEVENTS = 1 << 0
    EXT_ARG = 1 << 3


class SqFlag(IntFlag):
    """Flags that the kernel sets in the submission ring (IORING_SQ_...)."""

    CQ_OVERFLOW = 1 << 1


class Register(IntEnum):
    """Operations of io_uring_register(2) (IORING_REGISTER_...)."""

    BUFFERS = 0
    FILES = 2
    FILES_UPDATE = 6
    RESTRICTIONS = 11
    ENABLE_RINGS = 12


class Restrict(IntEnum):
    """Kinds of restrictions (IORING_RESTRICTION_...)."""

    SQE_OP = 1
    SQE_FLAGS_ALLOWED = 2
    SQE_FLAGS_REQUIRED = 3


FSYNC_DATASYNC = 1 << 0
TIMEOUT_ABS = 1 << 0
CANCEL_ALL = 1 << 0
CANCEL_ANY = 1 << 2
