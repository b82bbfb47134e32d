# SPDX-License-Identifier: Apache-2.0
"""A call that may wait for a device, in a thread of its own: the owner's thread never does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait

__all__ = ["Task"]


class Task:
    """One call. It has a deadline of its own, or is told to end by other means."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._future: Future[None] = Future()
        threading.Thread(target=self._run, args=(call,), daemon=True, name="device").start()

    def _run(self, call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            self._future.set_exception(error)
        else:
            self._future.set_result(None)

    @property
    def done(self) -> bool:
        """True once it has ended, one way or the other."""
        return self._future.done()

    def result(self) -> None:
        """Raise what the call raised, if it did; it is done."""
        if not self._future.done():
            raise TimeoutError
        self._future.result()

    def wait(self, seconds: float) -> bool:
        """Wait for its end, at most that long; true if it has come."""
        return bool(wait([self._future], seconds).done)
