# SPDX-License-Identifier: Apache-2.0
"""The functions of the system's libbpf.so.1 that kmind calls, declared for ctypes.

The library is loaded at the first call, not at import. What libbpf would print on
stderr is kept instead, and is to be had with `captured`.
"""

import ctypes
import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache

from kmind.bpf._errors import error_from
from kmind.errors import BpfError, NotSupportedError
from kmind.util.packages import install_hint

__all__ = [
    "LIBRARY",
    "Handle",
    "IterOptions",
    "OpenOptions",
    "RunOptions",
    "SampleCallback",
    "captured",
    "lib",
    "pointer_or_raise",
    "version",
]

LIBRARY = "libbpf.so.1"

_VERSION = "1.1 or later"


class OpenOptions(ctypes.Structure):
    """The head of ``struct bpf_object_open_opts``."""

    _fields_ = (("sz", c_size_t), ("object_name", c_char_p))


class IterOptions(ctypes.Structure):
    """``struct bpf_iter_attach_opts``."""

    _fields_ = (("sz", c_size_t), ("link_info", c_void_p), ("link_info_len", c_uint32))
    kept: object  # what ``link_info`` points to

    @classmethod
    def over_map(cls, map_fd: int) -> object:
        """A reference to the options that choose the elements of one map."""
        info = ctypes.create_string_buffer(map_fd.to_bytes(4, "little"), 16)
        options = cls(ctypes.sizeof(cls), ctypes.addressof(info), 16)
        options.kept = info
        return ctypes.byref(options)


class RunOptions(ctypes.Structure):
    """``struct bpf_test_run_opts``."""

    _fields_ = (
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    )


SampleCallback = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)

_WARNING = (
    0  # LIBBPF_WARN. Below that it tells what it tries and does without, each version its own.
)

# A va_list reaches a callee as an address, on x86-64 and on arm64.
_PrintCallback = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)

_PTR, _STR, _INT, _U32, _U64, _SIZE = c_void_p, c_char_p, c_int, c_uint32, c_uint64, c_size_t

# name: (result, arguments). As in libbpf.h and bpf.h of libbpf 1.1.
_DECLARATIONS: dict[str, tuple[type | None, list[type]]] = {
    "libbpf_set_print": (_PTR, [_PrintCallback]),
    "libbpf_version_string": (_STR, []),
    "bpf_object__open_mem": (_PTR, [_PTR, _SIZE, _PTR]),
    "bpf_object__load": (_INT, [_PTR]),
    "bpf_object__close": (None, [_PTR]),
    "bpf_object__next_map": (_PTR, [_PTR, _PTR]),
    "bpf_object__next_program": (_PTR, [_PTR, _PTR]),
    "bpf_map__name": (_STR, [_PTR]),
    "bpf_map__fd": (_INT, [_PTR]),
    "bpf_map__type": (_INT, [_PTR]),
    "bpf_map__key_size": (_U32, [_PTR]),
    "bpf_map__value_size": (_U32, [_PTR]),
    "bpf_map__max_entries": (_U32, [_PTR]),
    "bpf_map__map_extra": (_U64, [_PTR]),
    "bpf_map__map_flags": (_U32, [_PTR]),
    "bpf_map__set_max_entries": (_INT, [_PTR, _U32]),
    "bpf_map__set_value_size": (_INT, [_PTR, _U32]),
    "bpf_map__set_map_extra": (_INT, [_PTR, _U64]),
    "bpf_map__initial_value": (_PTR, [_PTR, ctypes.POINTER(_SIZE)]),
    "bpf_map__reuse_fd": (_INT, [_PTR, _INT]),
    "bpf_map_lookup_elem": (_INT, [_INT, _PTR, _PTR]),
    "bpf_map_update_elem": (_INT, [_INT, _PTR, _PTR, _U64]),
    "bpf_map_delete_elem": (_INT, [_INT, _PTR]),
    "bpf_map_get_next_key": (_INT, [_INT, _PTR, _PTR]),
    "bpf_obj_pin": (_INT, [_INT, _STR]),
    "bpf_obj_get": (_INT, [_STR]),
    "bpf_obj_get_info_by_fd": (_INT, [_INT, _PTR, ctypes.POINTER(_U32)]),
    "bpf_program__name": (_STR, [_PTR]),
    "bpf_program__section_name": (_STR, [_PTR]),
    "bpf_program__type": (_INT, [_PTR]),
    "bpf_program__fd": (_INT, [_PTR]),
    "bpf_program__autoload": (ctypes.c_bool, [_PTR]),
    "bpf_program__set_autoload": (_INT, [_PTR, ctypes.c_bool]),
    "bpf_program__attach": (_PTR, [_PTR]),
    "bpf_program__attach_iter": (_PTR, [_PTR, _PTR]),
    "bpf_program__attach_cgroup": (_PTR, [_PTR, _INT]),
    "bpf_prog_test_run_opts": (_INT, [_INT, _PTR]),
    "bpf_link__open": (_PTR, [_STR]),
    "bpf_link__fd": (_INT, [_PTR]),
    "bpf_link__pin": (_INT, [_PTR, _STR]),
    "bpf_link__unpin": (_INT, [_PTR]),
    "bpf_link__detach": (_INT, [_PTR]),
    "bpf_link__destroy": (_INT, [_PTR]),
    "bpf_iter_create": (_INT, [_INT]),
    "ring_buffer__new": (_PTR, [_INT, SampleCallback, _PTR, _PTR]),
    "ring_buffer__poll": (_INT, [_PTR, _INT]),
    "ring_buffer__consume": (_INT, [_PTR]),
    "ring_buffer__epoll_fd": (_INT, [_PTR]),
    "ring_buffer__free": (None, [_PTR]),
}

_sinks = threading.local()


@cache
def lib() -> ctypes.CDLL:
    """The library, loaded once a process.

    Raises NotSupportedError if it is not installed, or too old.
    """
    try:
        library = ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError:
        raise NotSupportedError(
            f"{LIBRARY} is not installed", hint=install_hint("libbpf", _VERSION)
        ) from None
    for name, (result, arguments) in _DECLARATIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise NotSupportedError(
                f"{LIBRARY} is too old: it has no {name}",
                hint=install_hint("libbpf", _VERSION),
            ) from None
        function.restype, function.argtypes = result, arguments
    library.libbpf_set_print(_print)
    return library


def version() -> tuple[int, ...]:
    """The version of the library that is loaded, as ``(1, 1)``."""
    text: bytes = lib().libbpf_version_string()
    return tuple(int(part) for part in text.decode().lstrip("v").split(".")[:2])


@contextmanager
def captured() -> Iterator[list[str]]:
    """Collect libbpf's warnings in this thread while the block runs, one text a message."""
    outer = getattr(_sinks, "messages", None)
    messages: list[str] = []
    _sinks.messages = messages
    try:
        yield messages
    finally:
        _sinks.messages = outer


def pointer_or_raise(pointer: int | None, what: str, hint: str | None = None) -> int:
    """Return a pointer that libbpf gave; if it is NULL, raise what errno says."""
    if pointer is None:
        raise error_from(ctypes.get_errno() or errno.EINVAL, what, hint)
    return pointer


class Handle:
    """Owner of a libbpf pointer, shared by all that must not use it once it is freed."""

    def __init__(self, pointer: int, what: str) -> None:
        self._pointer: int | None = pointer
        self._what = what

    def get(self) -> int:
        """The pointer; BpfError once it was taken."""
        if self._pointer is None:
            raise BpfError(f"{self._what} is closed")
        return self._pointer

    @property
    def taken(self) -> bool:
        """True once the pointer has been taken."""
        return self._pointer is None

    def take(self) -> int | None:
        """The pointer, to be freed by the caller; None for all later callers."""
        pointer, self._pointer = self._pointer, None
        return pointer


_libc = ctypes.CDLL(None)
_libc.vasprintf.argtypes = [ctypes.POINTER(c_void_p), c_char_p, c_void_p]
_libc.free.argtypes = [c_void_p]


def _keep_message(level: int, template: bytes, arguments: int) -> int:
    messages = getattr(_sinks, "messages", None)
    if messages is None or level != _WARNING:
        return 0
    text = c_void_p()
    length: int = _libc.vasprintf(ctypes.byref(text), template, arguments)
    if length >= 0:
        messages.append(ctypes.string_at(text, length).decode(errors="replace"))
        _libc.free(text)
    return 0


_print = _PrintCallback(_keep_message)
