# SPDX-License-Identifier: Apache-2.0
"""BPF programs of an object, and the links that attach them."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kmind.bpf._errors import PIN_HINT, check, error_from
from kmind.bpf._libbpf import (
    Handle,
    IterOptions,
    RunOptions,
    captured,
    lib,
    pointer_or_raise,
)
from kmind.errors import BpfError

__all__ = [
    "Link",
    "Program",
    "RunResult",
    "open_link",
    "program_id",
    "read_iter",
    "run_program",
]

_PROG_TYPE_RAW_TRACEPOINT = 17
_PROG_TYPE_TRACING = 26
_PROG_TYPE_SYSCALL = 31
# These take a context, and give it back in place or not at all.
_CTX_IN_ONLY = frozenset({_PROG_TYPE_RAW_TRACEPOINT, _PROG_TYPE_TRACING, _PROG_TYPE_SYSCALL})


class RunResult(NamedTuple):
    """Result of a test run: the program's return value (signed), its context, its duration.

    ``duration_ns`` is the kernel's mean of one run; 0 where the kernel does not measure.
    """

    retval: int
    ctx: bytes
    duration_ns: int


class Link:
    """A program's attachment. It ends with `close`, unless it is pinned."""

    def __init__(self, pointer: int, what: str) -> None:
        self._handle = Handle(pointer, f"the link of {what}")
        self._pinned = False

    @property
    def closed(self) -> bool:
        """True once `close` was called."""
        return self._handle.taken

    @property
    def fd(self) -> int:
        """Its descriptor; BpfError once closed."""
        return int(lib().bpf_link__fd(self._handle.get()))

    def pin(self, path: str | Path) -> None:
        """Pin it in a bpf file system: the program stays attached after `close`.

        The pin of an iterator can be read like a file.
        """
        result = lib().bpf_link__pin(self._handle.get(), os.fsencode(path))
        check(result, f"cannot pin a link at {path}", PIN_HINT)
        self._pinned = True

    def unpin(self) -> None:
        """Remove the pin."""
        check(lib().bpf_link__unpin(self._handle.get()), "cannot remove the pin of a link")
        self._pinned = False

    def detach(self) -> None:
        """Remove the pin, if any, and close: the program runs no more."""
        if self._pinned:
            self.unpin()
        self.close()

    def cut(self) -> None:
        """Detach the program of a cgroup link now, even if others hold the link.

        Without that the kernel does it a moment after the last descriptor and pin are gone.
        """
        check(lib().bpf_link__detach(self._handle.get()), "cannot detach a link")

    def close(self) -> None:
        """Let go of it; without a pin the program is detached. Safe to repeat."""
        pointer = self._handle.take()
        if pointer is not None:
            lib().bpf_link__destroy(pointer)

    def __enter__(self) -> "Link":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Program:
    """One program of an object. Got from ``BpfObject.programs``."""

    def __init__(self, pointer: Callable[[], int], links: list[Link]) -> None:
        self._pointer = pointer
        self._links = links  # the object's, which closes them

    @property
    def name(self) -> str:
        """The name of its C function."""
        name: bytes = lib().bpf_program__name(self._pointer())
        return name.decode()

    @property
    def section(self) -> str:
        """Its ELF section, as ``tp_btf/sched_switch``, which says what it is."""
        name: bytes = lib().bpf_program__section_name(self._pointer())
        return name.decode()

    @property
    def type(self) -> int:
        """BPF_PROG_TYPE_* as a number."""
        return int(lib().bpf_program__type(self._pointer()))

    @property
    def fd(self) -> int:
        """Its descriptor; BpfError before load, and if it is not loaded."""
        fd: int = lib().bpf_program__fd(self._pointer())
        if fd < 0:
            raise BpfError(f"program {self.name} is not loaded")
        return fd

    @property
    def id(self) -> int:
        """The kernel's number for it, as ``bpftool prog`` prints it."""
        return program_id(self.fd)

    @property
    def autoload(self) -> bool:
        """True if ``BpfObject.load`` loads this program."""
        return bool(lib().bpf_program__autoload(self._pointer()))

    def set_autoload(self, wanted: bool) -> None:
        """Choose whether ``BpfObject.load`` loads it; before load only."""
        result = lib().bpf_program__set_autoload(self._pointer(), wanted)
        check(result, f"cannot change whether program {self.name} is loaded")

    def attach(self) -> Link:
        """Attach it where its section says."""
        return self._attach("bpf_program__attach")

    def attach_iter(self, map_fd: int | None = None) -> Link:
        """Attach an iterator, then `read_iter`, or pin it.

        It is over everything of its kind, or over the elements of the map ``map_fd``.
        """
        if map_fd is None:
            return self._attach("bpf_program__attach_iter", None)
        return self._attach("bpf_program__attach_iter", IterOptions.over_map(map_fd))

    def attach_cgroup(self, cgroup: str | Path) -> Link:
        """Attach it to the cgroup v2 directory ``cgroup``."""
        try:
            fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise BpfError(f"cannot open cgroup {cgroup}: {error.strerror}") from None
        try:
            return self._attach("bpf_program__attach_cgroup", fd)
        finally:
            os.close(fd)

    def test_run(self, ctx: bytes | bytearray = b"", repeat: int = 0) -> RunResult:
        """Run it once, or ``repeat`` times, with ``ctx`` as its context.

        For SEC("syscall") programs ``repeat`` must be 0, and the returned ``ctx`` is
        what the program left in it. Source: BPF_PROG_TEST_RUN of bpf(2).
        """
        return run_program(
            self.fd, self.name, ctx, repeat=repeat, returns_ctx=self.type not in _CTX_IN_ONLY
        )

    def _attach(self, function: str, *arguments: object) -> Link:
        what = f"program {self.name}"
        with captured() as messages:
            pointer = getattr(lib(), function)(self._pointer(), *arguments)
        hint = messages[-1].strip() if messages else None
        pointer = pointer_or_raise(pointer, f"cannot attach {what} ({self.section})", hint)
        link = Link(pointer, what)
        self._links[:] = [earlier for earlier in self._links if not earlier.closed] + [link]
        return link


def run_program(
    fd: int, name: str, ctx: bytes | bytearray, *, repeat: int = 0, returns_ctx: bool = False
) -> RunResult:
    """Run the program behind ``fd``; see `Program.test_run`.

    ``returns_ctx``: its type gives the context back apart from the one that it takes.
    """
    options = RunOptions(sz=ctypes.sizeof(RunOptions), repeat=repeat)
    kept = ctypes.create_string_buffer(bytes(ctx), max(len(ctx), 1))
    if ctx:
        options.ctx_in, options.ctx_size_in = ctypes.addressof(kept), len(ctx)
        if returns_ctx:
            options.ctx_out, options.ctx_size_out = ctypes.addressof(kept), len(ctx)
    result = lib().bpf_prog_test_run_opts(fd, ctypes.byref(options))
    check(result, f"cannot run program {name}")
    retval = (options.retval ^ 1 << 31) - (1 << 31)
    return RunResult(retval, kept.raw[: len(ctx)], options.duration)


def program_id(fd: int) -> int:
    """The kernel's number for the program behind ``fd``, as ``bpftool prog`` prints it."""
    with Path(f"/proc/self/fdinfo/{fd}").open() as info:
        return next(int(line.split()[1]) for line in info if line.startswith("prog_id:"))


def open_link(path: str | Path) -> Link:
    """The link pinned at ``path``; its `Link.detach` removes the pin too."""
    pointer = lib().bpf_link__open(os.fsencode(path))
    link = Link(pointer_or_raise(pointer, f"cannot open the link pinned at {path}"), str(path))
    link._pinned = True
    return link


def read_iter(link: Link) -> bytes:
    """All that the iterator behind ``link`` prints, from a new run of it."""
    fd = check(lib().bpf_iter_create(link.fd), "cannot run an iterator")
    try:
        return b"".join(iter(lambda: os.read(fd, 1 << 16), b""))
    except OSError as error:
        raise error_from(error.errno or 0, "cannot read an iterator") from None
    finally:
        os.close(fd)
