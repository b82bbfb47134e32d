# SPDX-License-Identifier: Apache-2.0
"""Passing an objective's answers on: to the extension, the owner's experiments and the log.

The extension is handed a record: a number in millionths and the time that it spans, or why there
is none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from kmind.abi import layout
from kmind.agent.protocol import Agent
from kmind.agent.types import Kind
from kmind.runtime.objective.sources import GapName, Heard
from kmind.util.ratelimit import Bucket

__all__ = ["Answer", "Relay"]

_UNIT = 1e6
_LONGEST_MS = (1 << 32) - 1


@dataclass(frozen=True)
class Answer:
    """An objective's value since the time ``began``, or the kind of gap and why there is one."""

    began: float
    value: float | None
    gap: GapName = "failed"
    why: str = ""


class Relay:
    """Hands each answer to the extension of ``agent``, and to ``told`` as a reading.

    ``log`` is told of the first of several gaps of one kind, and of the end of them, at a bounded
    rate. ``now`` is the clock of the answers, in seconds.
    """

    def __init__(
        self,
        agent: Agent,
        log: Callable[[str], None],
        told: Callable[[Heard], None] = lambda heard: None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._agent = agent
        self._log = log
        self._deliver = told
        self._now = now
        self._in_a_row = 0
        self._gap = ""  # the kind of the latest answer, "" for a value
        self._lines = Bucket(now, rate=0.1, burst=6)

    def pass_on(self, answer: Answer) -> None:
        """Hand an answer on; it spans the time until now."""
        now = self._now()
        self._deliver(Heard(answer.began, now, answer.value))
        span_ms = min(math.ceil((now - answer.began) * 1000), _LONGEST_MS)
        if answer.value is None:
            self._agent.notify(Kind.NO_OBJECTIVE, span_ms, layout.GAP[answer.gap.upper()])
            self._note_gap(answer)
        else:
            self._agent.notify(Kind.OBJECTIVE, span_ms, round(answer.value * _UNIT))
            self._note_value()

    def _note_gap(self, answer: Answer) -> None:
        self._in_a_row += 1
        if answer.gap != self._gap:
            self._log_line(f"the objective has no value: {answer.why}; nothing is kept without one")
        self._gap = answer.gap

    def _note_value(self) -> None:
        if self._gap:
            self._log_line(f"the objective has a value again, after {self._in_a_row} without")
        self._in_a_row, self._gap = 0, ""

    def _log_line(self, line: str) -> None:
        if self._lines.allow():
            self._log(line)
