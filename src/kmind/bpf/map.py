# SPDX-License-Identifier: Apache-2.0
"""BPF maps: of an object before and after load, or found again by a pin."""

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from kmind.bpf import _syscall as raw
from kmind.bpf._errors import PIN_HINT, check
from kmind.bpf._libbpf import lib
from kmind.errors import BpfError

__all__ = [
    "MAP_TYPE_ARENA",
    "MAP_TYPE_ARRAY",
    "MAP_TYPE_RINGBUF",
    "Map",
    "obj_get",
    "obj_pin",
    "open_map",
]

# BPF_MAP_TYPE_* of the kernel's uapi/linux/bpf.h
MAP_TYPE_ARRAY = 2
MAP_TYPE_RINGBUF = 27
MAP_TYPE_ARENA = 33
_PER_CPU_TYPES = frozenset({5, 6, 10, 21})


class _MapInfo(ctypes.Structure):
    # struct bpf_map_info
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
        ("ifindex", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("netns_dev", ctypes.c_uint64),
        ("netns_ino", ctypes.c_uint64),
        ("btf_id", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("btf_vmlinux_id", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
    )


class Map:
    """One BPF map. Got from ``BpfObject.maps`` or `open_map`; never made by hand.

    Keys and values are bytes of exactly ``key_size`` and ``value_size``. In a map of a
    per-CPU type ``value_size`` covers all possible CPUs, each rounded up to 8 bytes.
    Errors are those of `kmind.bpf`: BpfError, PrivilegeError, NotSupportedError.
    """

    def __init__(self, pointer: Callable[[], int] | None, fd: int = -1) -> None:
        # Either the bpf_map of an object that is open, or a descriptor of our own.
        self._pointer = pointer
        self._own_fd = fd

    @property
    def name(self) -> str:
        """Its name; of a pinned map, the first 15 characters."""
        if self._pointer is None:
            name: bytes = self._info().name
        else:
            name = lib().bpf_map__name(self._pointer())
        return name.decode(errors="replace")

    @property
    def fd(self) -> int:
        """The descriptor; BpfError before load, and after close."""
        fd: int = self._own_fd if self._pointer is None else lib().bpf_map__fd(self._pointer())
        if fd < 0:
            raise BpfError("a map has no descriptor before its object is loaded, or once closed")
        return fd

    @property
    def type(self) -> int:
        """BPF_MAP_TYPE_* as a number."""
        return self._get("type")

    @property
    def key_size(self) -> int:
        """Bytes of a key."""
        return self._get("key_size")

    @property
    def value_size(self) -> int:
        """Bytes of what `lookup` returns and `update` takes."""
        size = self._get("value_size")
        return (size + 7) // 8 * 8 * _possible_cpus() if self.type in _PER_CPU_TYPES else size

    @property
    def max_entries(self) -> int:
        """Most entries; of a ring buffer its bytes, of an arena its pages."""
        return self._get("max_entries")

    @property
    def extra(self) -> int:
        """The type's own setting; of an arena, its address in user space."""
        return self._get("map_extra")

    # Before load.

    def set_max_entries(self, entries: int) -> None:
        """Change the size; before load only."""
        result = lib().bpf_map__set_max_entries(self._unloaded(), entries)
        check(result, f"cannot give map {self.name} {entries} entries")

    def set_value_size(self, size: int) -> None:
        """Change the bytes of a value; before load only.

        Load refuses too large ones: on Linux 6.1 those above 4 MiB.
        """
        result = lib().bpf_map__set_value_size(self._unloaded(), size)
        check(result, f"cannot give map {self.name} values of {size} bytes")

    def set_extra(self, value: int) -> None:
        """Set `extra`; before load only."""
        result = lib().bpf_map__set_map_extra(self._unloaded(), value)
        check(result, f"cannot set map_extra of map {self.name} to {value:#x}")

    def reuse_fd(self, fd: int) -> None:
        """Use an existing map in place of making one; before load only.

        ``fd`` is copied: the caller may close it.
        """
        check(
            lib().bpf_map__reuse_fd(self._unloaded(), fd),
            f"cannot use descriptor {fd} for map {self.name}",
        )

    def create(self) -> None:
        """Make the map now, unless it has a descriptor; before load only.

        For arenas. From version 1.5 on libbpf maps those that it makes into this process
        (MAP_FIXED, over whatever lies there) and unmaps them when the object is closed, below
        arrays that are still in use. It leaves maps alone that it is given, in all versions.
        """
        if lib().bpf_map__fd(self._unloaded()) >= 0:
            return
        fd = raw.map_create(
            self.type,
            self.key_size,
            self.value_size,
            self.max_entries,
            flags=self._get("map_flags"),
            extra=self.extra,
            name=self.name,
        )
        with raw.owned(fd):
            self.reuse_fd(fd)

    # After load.

    def lookup(self, key: bytes) -> bytes | None:
        """The value at ``key``, or None if there is none."""
        value = ctypes.create_string_buffer(self.value_size)
        result = lib().bpf_map_lookup_elem(self.fd, self._sized(key, "key"), value)
        if result == -errno.ENOENT:
            return None
        check(result, f"cannot look up in map {self.name}")
        return value.raw

    def update(self, key: bytes, value: bytes, flags: int = 0) -> None:
        """Set the value at ``key``. ``flags``: 0 any, 1 only if absent, 2 only if present."""
        key, value = self._sized(key, "key"), self._sized(value, "value")
        result = lib().bpf_map_update_elem(self.fd, key, value, flags)
        check(result, f"cannot update map {self.name}")

    def delete(self, key: bytes) -> bool:
        """Delete the entry at ``key``; False if there was none."""
        result = lib().bpf_map_delete_elem(self.fd, self._sized(key, "key"))
        if result == -errno.ENOENT:
            return False
        check(result, f"cannot delete from map {self.name}")
        return True

    def keys(self) -> Iterator[bytes]:
        """All keys, in no order; one deleted meanwhile may start the walk anew."""
        size, key = self.key_size, None
        while True:
            following = ctypes.create_string_buffer(size)
            result = lib().bpf_map_get_next_key(self.fd, key, following)
            if result == -errno.ENOENT:
                return
            check(result, f"cannot walk map {self.name}")
            key = following.raw
            yield key

    def pin(self, path: str | Path) -> None:
        """Pin it in a bpf file system, so that it outlives this process."""
        obj_pin(self.fd, path)

    def unpin(self, path: str | Path) -> None:
        """Remove a pin; no error if it is not there."""
        Path(path).unlink(missing_ok=True)

    def close(self) -> None:
        """Close a map of `open_map`; a map of an object closes with its object."""
        fd, self._own_fd = self._own_fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> "Map":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _get(self, field: str) -> int:
        value: int
        if self._pointer is None:
            value = getattr(self._info(), field)
        else:
            value = getattr(lib(), f"bpf_map__{field}")(self._pointer())
        return value

    def _info(self) -> _MapInfo:
        info = _MapInfo()
        size = ctypes.c_uint32(ctypes.sizeof(info))
        result = lib().bpf_obj_get_info_by_fd(self.fd, ctypes.byref(info), ctypes.byref(size))
        check(result, "cannot ask the kernel about a map")
        return info

    def _unloaded(self) -> int:
        if self._pointer is None:
            raise BpfError("a pinned map exists already and cannot be changed")
        return self._pointer()

    def _sized(self, data: bytes, what: str) -> bytes:
        size = self.key_size if what == "key" else self.value_size
        if len(data) != size:
            raise BpfError(f"map {self.name} takes a {what} of {size} bytes, not of {len(data)}")
        return bytes(data)


def open_map(path: str | Path) -> Map:
    """The map pinned at ``path``; close it after use."""
    return Map(None, obj_get(path))


def obj_get(path: str | Path) -> int:
    """A new descriptor of what is pinned at ``path``: a map, a program, a link."""
    return check(lib().bpf_obj_get(os.fsencode(path)), f"cannot open what is pinned at {path}")


def obj_pin(fd: int, path: str | Path) -> None:
    """Pin the map, program or link behind ``fd`` at ``path`` in a bpf file system."""
    check(lib().bpf_obj_pin(fd, os.fsencode(path)), f"cannot pin at {path}", PIN_HINT)


def _possible_cpus() -> int:
    # "0-3" or "0,2-3": the last number is the highest CPU.
    text = Path("/sys/devices/system/cpu/possible").read_text()
    return int(text.replace("-", ",").split(",")[-1]) + 1
