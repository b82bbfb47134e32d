# SPDX-License-Identifier: Apache-2.0
"""Events of all instances: to one listener, and to whoever subscribes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from kmind.events import Emit, Event, Log

__all__ = ["EventBus"]


class EventBus:
    """Tells one listener the events that are ``logged``, and subscribers all of them."""

    def __init__(self, listener: Emit) -> None:
        self._listener = listener
        self._subscribers: list[Emit] = []

    def subscribe(self, callback: Emit) -> Callable[[], None]:
        """Call back with each event; returns the call that ends that."""
        self._subscribers.append(callback)

        def end() -> None:
            with suppress(ValueError):
                self._subscribers.remove(callback)

        return end

    def notify(self, event: Event) -> None:
        """Tell it to all. A subscriber that fails is told nothing more."""
        if event.logged:
            self._listener(event)
        for callback in list(self._subscribers):
            try:
                callback(event)
            except Exception as error:
                self._subscribers.remove(callback)
                message = f"a subscriber failed, and gets no more events: {error!r}"
                self._listener(Log(message=message))
