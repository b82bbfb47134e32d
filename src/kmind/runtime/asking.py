# SPDX-License-Identifier: Apache-2.0
"""Asking an instance's objective again and again, in a thread of its own, and passing it on.

A command or a server may take its time: the owner never waits for it. What comes is handed
to the extension as a record: a number in millionths and the time that it spans, or why
there is none. The thread touches nothing of the owner's but two lists and a descriptor.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kmind.abi import layout
from kmind.agent._base import Agent, Kind
from kmind.errors import KmindError, UsageError
from kmind.extension import Manifest
from kmind.extension import Value as Parameter
from kmind.knobs import Target
from kmind.runtime._command import check_user
from kmind.runtime.objective import GapError, GapName, Objective, parse_objective

__all__ = ["Asking", "check_objective"]

_UNIT = 1e6
_MOST_WAITING = 64
_END_S = 5.0


@dataclass(frozen=True)
class _Answer:
    began: float
    value: float | None
    gap: GapName = "failed"
    why: str = ""


def check_objective(
    manifest: Manifest, target: Target, params: Mapping[str, Parameter]
) -> Objective | None:
    """The objective of an instance, None for a module without one.

    Raises UsageError for one that makes no sense, or whose direction nobody has said.
    """
    part = manifest.objective
    if part is None:
        return None
    user = str(params[part.user])
    check_user(user)
    objective = parse_objective(
        str(params[part.what]), target, timeout_s=float(params[part.timeout]), user=user
    )
    if str(params[part.better]) == "auto" and not objective.better:
        raise UsageError(
            f"objective {str(params[part.what])[:80]} does not say which way is good",
            hint=f"add {part.better}=higher or {part.better}=lower",
        )
    return objective


class Asking:
    """One thread that asks ``objective`` every ``every_s`` seconds, begun with ``start``.

    An answer that is no rate speaks of ``looks_back_s`` seconds before it was asked, too.

    ``fd`` is readable when there is an answer; ``turn`` passes answers on. ``log`` is told
    of the first of several gaps of one kind, and of the end of them.
    """

    def __init__(
        self,
        objective: Objective,
        agent: Agent,
        *,
        every_s: float,
        looks_back_s: float,
        log: Callable[[str], None],
    ) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.gaps = 0
        self._objective = objective
        self._every_s = every_s
        self._looks_back_s = looks_back_s
        self._agent = agent
        self._log = log
        self._answers: deque[_Answer] = deque(maxlen=_MOST_WAITING)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="objective", daemon=True)
        self._row = 0
        self._last = ""

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def turn(self) -> None:
        """Pass on what came; never waits."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return
        while self._answers:
            self._pass_on(self._answers.popleft())

    def close(self) -> None:
        """Ask no more; a command that runs is killed. Safe to repeat."""
        if self._over.is_set():
            return
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(_END_S)
        os.close(self.fd)

    def _ask(self) -> None:
        began = time.monotonic()
        while not self._over.is_set():
            start, value = began, None
            began = time.monotonic()
            try:
                value = self._objective.ask(self._over.is_set)
                answer = None if value is None else _Answer(self._since(start, began), value)
            except GapError as gap:
                answer = _Answer(began, None, gap.kind, str(gap))
            except KmindError as error:
                answer = _Answer(began, None, "failed", str(error))
            if answer is not None and not self._over.is_set():
                self._answers.append(answer)
                os.eventfd_write(self.fd, 1)
            self._over.wait(max(0.0, began + self._every_s - time.monotonic()))

    def _since(self, last: float, began: float) -> float:
        # A built-in rate speaks of the time since it was last asked, the others of their own.
        return last if self._objective.better else began - self._looks_back_s

    def _pass_on(self, answer: _Answer) -> None:
        span_ms = min(math.ceil((time.monotonic() - answer.began) * 1000), (1 << 32) - 1)
        if answer.value is None:
            self.gaps += 1
            self._row += 1
            self._agent.notify(Kind.NO_OBJECTIVE, span_ms, layout.GAP[answer.gap.upper()])
            if answer.gap != self._last:
                self._log(f"the objective has no value: {answer.why}; nothing is kept without one")
            self._last = answer.gap
            return
        if self._last:
            self._log(f"the objective has a value again, after {self._row} without")
        self._row, self._last = 0, ""
        self._agent.notify(Kind.OBJECTIVE, span_ms, round(answer.value * _UNIT))
