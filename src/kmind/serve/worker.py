# SPDX-License-Identifier: Apache-2.0
"""The supervisor's thread: makes it, steps it, and closes it at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from kmind.serve._base import Supervisor

__all__ = ["Worker"]

_STEP_S = 1.0


class Worker:
    """Runs one supervisor on a thread of its own.

    ``make`` is called on that thread, for what it makes (the journal too) belongs
    there. ``ended`` is called from there when the thread is over.
    """

    def __init__(self, make: Callable[[], Supervisor], *, ended: Callable[[], None]) -> None:
        self.started: Future[Supervisor] = Future()
        """Done once the supervisor has started, with it or with what went wrong."""
        self.error: BaseException | None = None
        """Error that ended it, if ``stop`` did not."""
        self._make = make
        self._ended = ended
        self._beat = time.monotonic()
        self._keep: bool | None = None  # not None: the end is wanted
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    @property
    def step_age_s(self) -> float:
        """Time since it last went round; a supervisor that is well does so each second."""
        return time.monotonic() - self._beat

    @property
    def alive(self) -> bool:
        """True while the thread runs."""
        return self._thread.is_alive()

    def stop(self, *, keep: bool) -> None:
        """Close the supervisor and wait for it; raise what its end raised."""
        self._keep = keep
        if self.started.done() and not self.started.exception():
            # Wakes the step that waits.
            self.started.result().submit(lambda: None)
        self._thread.join()
        if self.error:
            raise self.error

    def _run(self) -> None:
        try:
            supervisor = self._make()
            supervisor.start()
        except BaseException as error:
            self.started.set_exception(error)
            self._ended()
            return
        self.started.set_result(supervisor)
        try:
            while self._keep is None:
                self._beat = time.monotonic()
                supervisor.step(_STEP_S)
            self._beat = time.monotonic()
        except BaseException as error:
            self.error = error
        try:
            # One that failed puts everything back, as one that is told to.
            supervisor.close(keep=bool(self._keep))
        except BaseException as error:
            self.error = self.error or error
        self._ended()
