# SPDX-License-Identifier: Apache-2.0
"""A kernel, a filter or a limit that refuses a ring is told in one line."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from kmind.errors import KmindError, NotSupportedError, RingError
from kmind.runtime.sandbox.confine.seccomp import limit_system_calls
from kmind.uring import Buffers, Ring, _syscall, register_buffers


def said_by_a_child(act: Callable[[], object]) -> str:
    """Fork, and return the kind and text of the error that ``act`` ends with there."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            act()
        except KmindError as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as end:
        text = end.read()
    os.waitpid(child, 0)
    return text


def test_a_filter_is_told() -> None:
    def act() -> None:
        ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # no_new_privs
        limit_system_calls()
        Ring(8)

    text = said_by_a_child(act)
    assert text.startswith("NotSupportedError: io_uring cannot be used: Operation not permitted")
    assert "io_uring_setup, io_uring_enter and io_uring_register" in text
    assert "\n" not in text


def test_a_limit_of_open_files_is_told() -> None:
    def act() -> None:
        used = len(list(Path("/proc/self/fd").iterdir()))
        held = [os.dup(0) for _ in range(64 - min(used, 60))]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(held, default=0) + 1,) * 2)
        while True:
            held.append(Ring(8))  # type: ignore[arg-type]

    assert said_by_a_child(act).startswith(
        "RingError: io_uring cannot be used: Too many open files; "
        "the process has too many open files"
    )


def test_a_limit_of_locked_memory_is_told() -> None:
    """Root is not bound by it; another user is."""

    def act() -> None:
        if not os.geteuid():
            os.setuid(65534)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 18, 1 << 18))
        buffers = Buffers(1, 1 << 20)
        register_buffers(Ring(8), [buffers.span])

    text = said_by_a_child(act)
    assert text.startswith("RingError: io_uring: cannot register buffers: Cannot allocate memory")
    assert "ulimit -l" in text


@pytest.mark.parametrize(
    ("number", "disabled", "kind", "hint"),
    [
        (errno.ENOSYS, "0", NotSupportedError, "this kernel has no io_uring"),
        (errno.EPERM, "2", NotSupportedError, "kernel.io_uring_disabled=0"),
        (errno.EPERM, "1", NotSupportedError, "kernel.io_uring_disabled=0"),
        (errno.EPERM, "0", NotSupportedError, "a filter of system calls"),
        (errno.EACCES, "0", NotSupportedError, "a filter of system calls"),
        (errno.EPERM, None, NotSupportedError, "a filter of system calls"),
        (errno.ENOMEM, "0", RingError, "ulimit -l"),
        (errno.ENFILE, "0", RingError, ""),
    ],
)
def test_who_refuses_is_named(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    number: int,
    disabled: str | None,
    kind: type[KmindError],
    hint: str,
) -> None:
    switch = tmp_path / "io_uring_disabled"
    if disabled is not None:
        switch.write_text(f"{disabled}\n")
    monkeypatch.setattr(_syscall, "_DISABLED", switch)
    error = _syscall.refusal(number)
    assert type(error) is kind
    assert hint in error.hint
    assert os.strerror(number) in str(error)
    assert "\n" not in str(error)
