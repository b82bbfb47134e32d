# SPDX-License-Identifier: Apache-2.0
"""Reading what an extension prints: not at each byte, and only while its budget has room."""

from __future__ import annotations

import math
import selectors
from collections.abc import Callable

from kmind.runtime.budget import OwnerBudget
from kmind.runtime.instance.extension.handle import ExtensionHandle

__all__ = ["Listener"]

# To print a byte costs an extension a hundredth of what it costs its owner to wake up for it.
_PAUSE_S = 0.02


class Listener:
    """Waits for one extension's end and for what it prints, with ``selector``.

    ``say`` is told each line. Between two reads it pauses, and for as long as the budget has no
    room; meanwhile the pipe fills, and the extension itself drops what it prints. One thread.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        budget: OwnerBudget,
        print_line: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        self._selector = selector
        self._budget = budget
        self._print = print_line
        self._now = now
        self._extension: ExtensionHandle | None = None
        self._again_at = -math.inf
        self._waits = False

    def watch(self, extension: ExtensionHandle) -> None:
        """Listen to this one from now on."""
        self._extension = extension
        self._selector.register(extension.pid_fd, selectors.EVENT_READ)
        self._wait(True)

    def unwatch(self) -> None:
        """Listen no more. Safe to repeat."""
        if self._extension is None:
            return
        self._wait(False)
        if self._extension.pid_fd >= 0:
            self._selector.unregister(self._extension.pid_fd)
        self._extension = None

    @property
    def due(self) -> float:
        """Time to call ``listen``, whatever the selector says."""
        return math.inf if self._waits or self._extension is None else self._again_at

    def listen(self) -> None:
        """Read what was printed, unless it is too early; never waits."""
        extension, now = self._extension, self._now()
        if extension is None or extension.log_fd < 0:
            return
        if now < self._again_at:
            self._wait(False)
            return
        before = extension.heard
        with self._budget.spend("log"):
            lines = extension.read_log()
            for line in lines:
                self._print(line)
        with self._budget.spend("reports"):
            self._budget.count("reports", extension.handle_notes())
        self._budget.count("log_lines", len(lines))
        self._budget.count("log_bytes", extension.heard - before)
        # At the end of a pipe nothing comes, and to wait for it would be a loop.
        self._wait(extension.heard == before)
        self._again_at = now + max(_PAUSE_S, self._budget.wait_s)

    def _wait(self, wanted: bool) -> None:
        assert self._extension is not None
        if wanted == self._waits or self._extension.log_fd < 0:
            self._waits = self._waits and self._extension.log_fd >= 0
            return
        self._waits = wanted
        if wanted:
            self._selector.register(self._extension.log_fd, selectors.EVENT_READ)
        else:
            self._selector.unregister(self._extension.log_fd)
