# SPDX-License-Identifier: Apache-2.0
"""Report agents' counters that no honest extension moves, whenever they grow."""

from __future__ import annotations

from kmind import events
from kmind.agent.protocol import Agent
from kmind.events import Emit

__all__ = ["Misuse"]

_TOLD = {
    "bad_tail": "wrote an invalid queue tail: {more} more times, {total} in all",
    "actions_lost": "recommends faster than it is served: {more} more recommendations were refused "
    "unreported, {total} in all",
}


class Misuse:
    """Looks at one agent's account for its owner. Call ``look`` at a steady pace."""

    def __init__(self, who: str, agent: Agent, emit: Emit) -> None:
        self._who = who
        self._agent = agent
        self._emit = emit
        self._seen = dict.fromkeys(_TOLD, 0)

    def adopt(self) -> None:
        """Skip the counts that an earlier owner has reported."""
        self._seen = {name: self._agent.account()[name] for name in _TOLD}

    def poll(self) -> None:
        """Say what has grown."""
        account = self._agent.account()
        for name, words in _TOLD.items():
            total = account[name]
            more, self._seen[name] = total - self._seen[name], total
            if more > 0:
                message = f"the extension of {self._who} {words.format(more=more, total=total)}"
                self._emit(events.Log(instance=self._who, message=message))
