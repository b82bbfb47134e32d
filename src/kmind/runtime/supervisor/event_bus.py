# SPDX-License-Identifier: Apache-2.0
"""Events of all instances: to one listener, and to whoever subscribes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kmind.runtime.holds.holds import Emit

__all__ = ["Events"]

_Event = dict[str, Any]


class Events:
    """Tells one listener all events but those of windows, and subscribers all of them."""

    def __init__(self, listener: Emit) -> None:
        self._listener = listener
        self._subscribers: list[Callable[[_Event], None]] = []

    def subscribe(self, callback: Callable[[_Event], None]) -> Callable[[], None]:
        """Call back with each event (``event``, ``ts``, its fields); what ends that."""
        self._subscribers.append(callback)

        def end() -> None:
            with suppress(ValueError):
                self._subscribers.remove(callback)

        return end

    def tell(self, event: str, fields: _Event) -> None:
        """Tell it to all. A subscriber that fails is told nothing more."""
        if event != "window":
            self._listener(event, **fields)
        if not self._subscribers:
            return
        record = {"event": event, "ts": time.time(), **fields}
        for callback in list(self._subscribers):
            try:
                callback(record)
            except Exception as error:
                self._subscribers.remove(callback)
                message = f"a subscriber failed, and hears no more: {error!r}"
                self._listener("log", source="kmind", message=message)
