# SPDX-License-Identifier: Apache-2.0
"""Reading a BPF ring buffer, a record at a time, through libbpf."""

import ctypes
import errno
from collections.abc import Callable
from typing import Self

from kmind.bpf._errors import check
from kmind.bpf._libbpf import Handle, SampleCallback, lib, pointer_or_raise

__all__ = ["RingBuffer"]


class RingBuffer:
    """Calls ``callback`` with each record, as bytes, while `poll` or `consume` runs.

    An exception in the callback ends the call and is raised from it; the record that
    raised counts as read. One thread at a time.
    """

    def __init__(self, map_fd: int, callback: Callable[[bytes], object]) -> None:
        self._callback = callback
        self._raised: BaseException | None = None
        self._on_sample = SampleCallback(self._sample)  # must live as long as the ring
        pointer = lib().ring_buffer__new(map_fd, self._on_sample, None, None)
        self._handle = Handle(
            pointer_or_raise(pointer, "cannot read a ring buffer"), "the ring buffer"
        )

    @property
    def fd(self) -> int:
        """A descriptor that is readable when there are records: for epoll or asyncio."""
        return int(lib().ring_buffer__epoll_fd(self._handle.get()))

    def poll(self, timeout_ms: int = -1) -> int:
        """Wait for records, at most ``timeout_ms`` (-1: for ever); how many were read.

        0 if the time is over, or a signal came.
        """
        return self._result(lib().ring_buffer__poll(self._handle.get(), timeout_ms))

    def consume(self) -> int:
        """Read what is there without waiting; how many records."""
        return self._result(lib().ring_buffer__consume(self._handle.get()))

    def close(self) -> None:
        """Let go of it; safe to repeat."""
        pointer = self._handle.take()
        if pointer is not None:
            lib().ring_buffer__free(pointer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _sample(self, context: int, data: int, size: int) -> int:
        try:
            self._callback(ctypes.string_at(data, size))
        except BaseException as error:  # must not pass through C
            self._raised = error
            return -errno.ECANCELED
        return 0

    def _result(self, result: int) -> int:
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised
        if result == -errno.EINTR:
            return 0
        return check(result, "cannot read a ring buffer")
