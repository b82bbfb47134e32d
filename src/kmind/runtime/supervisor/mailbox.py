# SPDX-License-Identifier: Apache-2.0
"""Calls that other threads want run on the supervisor's."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

from kmind.errors import KmindError

__all__ = ["Mailbox"]

_T = TypeVar("_T")
_Waiting: TypeAlias = tuple[Callable[[], Any], Future[Any], bool]


class Mailbox:
    """A queue of calls. ``submit`` is for any thread, the rest for the one that runs them.

    ``fd`` is readable when there is one. ``changed`` is called before and after each call that
    may change something.
    """

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._changed = changed
        self._queue: queue.SimpleQueue[_Waiting] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, call: Callable[[], _T], *, reads: bool = False) -> Future[_T]:
        """Have it run; its result or exception comes through the future.

        One that only ``reads`` may be answered by what another one has read just before.
        """
        future: Future[_T] = Future()
        self._queue.put((call, future, reads))
        with self._lock:
            if not self._closed:
                os.eventfd_write(self.fd, 1)
                return future
        self._refuse()
        return future

    def woken(self) -> None:
        """Let ``fd`` be not readable again."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def run(self, most_s: float) -> None:
        """Run what waits now, until ``most_s`` seconds are over; at least one.

        The rest waits, and ``fd`` is readable again: however many ask in a loop, whoever
        runs this comes to its other work.
        """
        until = time.monotonic() + most_s
        for _ in range(self._queue.qsize()):
            self._run_one(*self._queue.get())
            if time.monotonic() >= until:
                break
        with self._lock:
            if not self._closed and not self._queue.empty():
                os.eventfd_write(self.fd, 1)

    def _run_one(self, call: Callable[[], Any], future: Future[Any], reads: bool) -> None:
        if not future.set_running_or_notify_cancel():
            return
        if not reads:
            self._changed()
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)
        if not reads:
            self._changed()

    def close(self) -> None:
        """Refuse what waits, and what comes later."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            os.close(self.fd)
        self._refuse()

    def _refuse(self) -> None:
        with suppress(queue.Empty):
            while True:
                future = self._queue.get_nowait()[1]
                if future.set_running_or_notify_cancel():
                    future.set_exception(KmindError("the daemon is stopping"))
