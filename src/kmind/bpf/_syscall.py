# SPDX-License-Identifier: Apache-2.0
"""bpf(2) and its neighbours without libbpf, for probes that must run where it is absent.

Programs are lists of instructions made by the functions below. Attribute layouts are
those of ``union bpf_attr`` in the kernel's uapi/linux/bpf.h. Failures raise what
`kmind.bpf._errors.error_from` makes of errno.
"""

import ctypes
import os
import platform
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kmind.bpf._errors import error_from
from kmind.errors import NotSupportedError

__all__ = [
    "btf_load",
    "call",
    "insn",
    "iter_create",
    "link_create",
    "load_imm64",
    "load_map",
    "map_create",
    "map_update",
    "owned",
    "perf_event_open",
    "pidfd_getfd",
    "prog_load",
    "raw_tracepoint_open",
    "returns",
    "test_run",
]

_MAP_CREATE, _MAP_UPDATE, _PROG_LOAD, _TEST_RUN, _RAW_TP_OPEN = 0, 2, 5, 10, 17
_BTF_LOAD, _LINK_CREATE, _ITER_CREATE = 18, 28, 33

# (bpf, perf_event_open); the numbers of newer calls are the same everywhere.
_NUMBERS = {"x86_64": (321, 298), "aarch64": (280, 241)}
_PIDFD_GETFD = 438
_O_CLOEXEC_FLAG = 8


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


@contextmanager
def owned(fd: int) -> Iterator[int]:
    """Close ``fd`` at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)


# Instructions.


def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    """One instruction."""
    return struct.pack("<BBhi", code, dst | src << 4, off, imm)


def load_imm64(dst: int, value: int, src: int = 0) -> bytes:
    """``dst = value``, 64 bits wide: two slots."""
    return insn(0x18, dst, src, 0, _signed(value)) + insn(0, imm=_signed(value >> 32))


def load_map(dst: int, fd: int) -> bytes:
    """``dst = map``: two slots (BPF_PSEUDO_MAP_FD)."""
    return load_imm64(dst, fd, src=1)


def call(helper: int) -> bytes:
    """A call of the helper with that number."""
    return insn(0x85, imm=helper)


def returns(value: int) -> bytes:
    """``return value``."""
    return insn(0xB7, 0, imm=value) + insn(0x95)


# System calls. Each that makes something returns a descriptor that the caller closes.


def prog_load(
    type: int,
    code: bytes,
    *,
    attach_type: int = 0,
    attach_btf_id: int = 0,
    flags: int = 0,
    btf_fd: int = 0,
    func_info: Sequence[tuple[int, int]] = (),
) -> int:
    """Load a program. ``func_info``: (first instruction, BTF id) of each function."""
    kept = ctypes.create_string_buffer(code, len(code))
    records = b"".join(struct.pack("<II", *record) for record in func_info)
    info = ctypes.create_string_buffer(records, max(len(records), 1))
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = bytearray(152)
    struct.pack_into(
        "<IIQQIIQII16sIIIIQI",
        attributes,
        0,
        type,
        len(code) // 8,
        ctypes.addressof(kept),
        ctypes.addressof(licence),
        *(0, 0, 0, 0),  # no log, no kernel version
        flags,
        b"kmind_probe",
        0,
        attach_type,
        btf_fd,
        8 if func_info else 0,
        ctypes.addressof(info) if func_info else 0,
        len(func_info),
    )
    struct.pack_into("<I", attributes, 108, attach_btf_id)
    return _bpf(_PROG_LOAD, attributes, "loading a program")


def map_create(
    type: int,
    key_size: int,
    value_size: int,
    max_entries: int,
    *,
    flags: int = 0,
    extra: int = 0,
    name: str = "kmind_probe",
    btf: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> int:
    """Make a map. The kernel keeps 15 characters of its name.

    ``btf``: descriptor, ids in it of the key's and the value's type, id in the kernel's
    BTF of the value's type.
    """
    attributes = bytearray(80)
    struct.pack_into("<IIIII", attributes, 0, type, key_size, value_size, max_entries, flags)
    struct.pack_into("<16sIIIII", attributes, 28, name.encode()[:15], 0, *btf)
    struct.pack_into("<Q", attributes, 64, extra)
    return _bpf(_MAP_CREATE, attributes, f"making map {name}")


def map_update(map_fd: int, key: bytes, value: bytes) -> None:
    """Set the value at a key."""
    kept = (
        ctypes.create_string_buffer(key, len(key)),
        ctypes.create_string_buffer(value, len(value)),
    )
    attributes = bytearray(32)
    struct.pack_into("<IxxxxQQ", attributes, 0, map_fd, *map(ctypes.addressof, kept))
    _bpf(_MAP_UPDATE, attributes, "updating a map")


def btf_load(blob: bytes) -> int:
    """Load a BTF blob into the kernel."""
    kept = ctypes.create_string_buffer(blob, len(blob))
    attributes = bytearray(32)
    struct.pack_into("<QQI", attributes, 0, ctypes.addressof(kept), 0, len(blob))
    return _bpf(_BTF_LOAD, attributes, "loading BTF")


def test_run(prog_fd: int) -> int:
    """Run a program without a context; its return value, signed."""
    attributes = bytearray(80)
    struct.pack_into("<I", attributes, 0, prog_fd)
    _bpf(_TEST_RUN, attributes, "running a program")
    return int(struct.unpack_from("<i", attributes, 4)[0])


test_run.__test__ = False  # type: ignore[attr-defined]  # for pytest, which likes the name


def raw_tracepoint_open(prog_fd: int, name: str = "") -> int:
    """Attach a raw_tp program to a tracepoint, or a tracing program where it belongs."""
    kept = ctypes.create_string_buffer(name.encode())
    attributes = bytearray(24)
    struct.pack_into("<QI", attributes, 0, ctypes.addressof(kept) if name else 0, prog_fd)
    return _bpf(_RAW_TP_OPEN, attributes, "attaching")


def link_create(prog_fd: int, target_fd: int, attach_type: int, *, over: int = 0) -> int:
    """Attach a program to something that has a descriptor; an iterator, to a map (``over``)."""
    attributes = bytearray(48)
    struct.pack_into("<III", attributes, 0, prog_fd, target_fd, attach_type)
    info = ctypes.c_uint32(over)  # union bpf_iter_link_info
    if over:
        struct.pack_into("<QI", attributes, 16, ctypes.addressof(info), 4)
    return _bpf(_LINK_CREATE, attributes, "attaching")


def iter_create(link_fd: int) -> int:
    """Start an iterator; what it prints is read from the descriptor."""
    attributes = bytearray(8)
    struct.pack_into("<I", attributes, 0, link_fd)
    return _bpf(_ITER_CREATE, attributes, "starting an iterator")


def perf_event_open(type: int, config: int, *, name: str = "", period: int = 0) -> int:
    """A disabled perf event on CPU 0; ``name`` is the function of a kprobe."""
    kept = ctypes.create_string_buffer(name.encode())
    attributes = ctypes.create_string_buffer(72)
    struct.pack_into("<IIQQ", attributes, 0, type, 72, config, period)
    struct.pack_into("<Q", attributes, 40, 1)  # disabled
    struct.pack_into("<Q", attributes, 56, ctypes.addressof(kept) if name else 0)
    arguments = (attributes, -1, 0, -1, ctypes.c_ulong(_O_CLOEXEC_FLAG))
    return _checked(_libc.syscall(_number(1), *arguments), "opening a perf event")


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A copy of another process's descriptor."""
    return _checked(_libc.syscall(_PIDFD_GETFD, pidfd, fd, 0), "pidfd_getfd")


def _bpf(command: int, attributes: bytearray, what: str) -> int:
    kept = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    result = _libc.syscall(_number(0), command, kept, ctypes.c_uint(len(attributes)))
    return _checked(result, what)


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise error_from(ctypes.get_errno(), what, hint="")
    return result


def _number(which: int) -> int:
    machine = platform.machine()
    if machine not in _NUMBERS:
        raise NotSupportedError(f"kmind does not know the system calls of {machine}")
    return _NUMBERS[machine][which]


def _signed(value: int) -> int:
    return (value & 0xFFFFFFFF ^ 1 << 31) - (1 << 31)
