# SPDX-License-Identifier: Apache-2.0
"""Asking an instance's objective again and again, in a thread of its own.

A command, a server or a name server may take its time: the owner never waits for any, at the
end neither. A thread that hangs then is left behind: it holds nothing of the owner's, and ends
with its question. So many are left behind at most; beyond that nothing more is asked.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping

from kmind.errors import UsageError
from kmind.extension import Manifest
from kmind.extension import Value as Parameter
from kmind.knobs import Target
from kmind.runtime.objective.command import check_user, refuse_other_user
from kmind.runtime.objective.relay import Answer, Relay
from kmind.runtime.objective.sources import GapError, Objective, parse_objective
from kmind.util.text import clean

__all__ = ["MOST_LEFT", "Poller", "check_objective", "check_requester", "settle"]

MOST_LEFT = 64
"""So many threads may hang in questions that nobody waits for any more."""

_MOST_WAITING = 64
# Beyond its time limit: a question that still hangs then cannot be cut, as in a name server.
_GRACE_S = 1.0
_left: set[threading.Thread] = set()
_left_lock = threading.Lock()


def _count_left() -> int:
    with _left_lock:
        _left.intersection_update([thread for thread in _left if thread.is_alive()])
        return len(_left)


def settle(timeout_s: float) -> None:
    """Give threads that were left behind that long to end; for what is about to exec."""
    until = time.monotonic() + timeout_s
    with _left_lock:
        threads = list(_left)
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


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
            f"objective {clean(str(params[part.what]), 80)} does not say which way is good",
            hint=f"add {part.better}=higher or {part.better}=lower",
        )
    return objective


def check_requester(
    manifest: Manifest, params: Mapping[str, Parameter], given: Collection[str], asker: int
) -> None:
    """Refuse a command that ``asker`` may not have run as the user that ``params`` say.

    ``asker`` is the user id of whoever loads the module, ``given`` the names of the parameters
    that they gave themselves: an objective and a user that are both root's own settings are root's
    choice, whoever loads the module. Raises PrivilegeError, and UsageError for an unknown user.
    """
    part = manifest.objective
    if part is None or not {part.what, part.user}.intersection(given):
        return
    if str(params[part.what]).partition(":")[0] == "command":
        user = str(params[part.user])
        check_user(user)
        refuse_other_user(user, asker)


class Poller:
    """One thread that asks ``objective`` every ``every_s`` seconds, begun with ``start``.

    An answer that is no rate speaks of ``looks_back_s`` seconds before it was asked, too.

    ``fd`` is readable when there is an answer; ``run_due`` hands answers, and gaps, to ``relay``.
    """

    def __init__(
        self,
        objective: Objective,
        relay: Relay,
        *,
        every_s: float,
        looks_back_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._objective = objective
        self._every_s = every_s
        self._looks_back_s = looks_back_s
        self._relay = relay
        self._now = now
        self._answers: deque[Answer] = deque(maxlen=_MOST_WAITING)
        self._over = threading.Event()
        self._lock = threading.Lock()  # of ``fd``: held by nobody who waits for anything
        self._thread: threading.Thread | None = None
        self._asked_at: float | None = None
        self._late_at = 0.0

    def start(self) -> None:
        """Begin to ask; later, from ``run_due``, if too many questions hang already."""
        if _count_left() >= MOST_LEFT:
            return
        self._thread = threading.Thread(target=self._ask, name="objective", daemon=True)
        self._thread.start()

    def run_due(self) -> None:
        """Pass on what came; never waits."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            self._check_late()
            return
        while self._answers:
            self._relay.pass_on(self._answers.popleft())

    def close(self) -> None:
        """Ask no more, and wait for nothing: what hangs is cut off, a command killed.

        Safe to repeat.
        """
        with self._lock:
            if self._over.is_set():
                return
            self._over.set()
            os.close(self.fd)
        self._objective.cancel()
        if self._thread is not None:
            with _left_lock:
                _left.add(self._thread)
            _count_left()

    def _check_late(self) -> None:
        # A gap a second while a question hangs, and while none can be asked.
        now = self._now()
        asked, limit = self._asked_at, self._objective.timeout_s
        if now < self._late_at:
            return
        if self._thread is None:
            self.start()
        if self._thread is None:
            why = f"{MOST_LEFT} earlier requests hang, and no more are sent"
            self._relay.pass_on(Answer(now, None, "failed", why))
        elif asked is not None and now > asked + limit + _GRACE_S:
            why = f"no answer within {limit:g} s, and the request hangs"
            self._relay.pass_on(Answer(asked, None, "timeout", why))
        else:
            return
        self._late_at = now + max(1.0, self._every_s)

    def _ask(self) -> None:
        began = self._now()
        while not self._over.is_set():
            start, value = began, None
            self._asked_at = began = self._now()
            try:
                value = self._objective.ask(self._over.is_set)
                answer = None if value is None else Answer(self._since(start, began), value)
            except GapError as gap:
                answer = Answer(began, None, gap.kind, str(gap))
            except Exception as error:  # whatever a server says, the next question is asked
                answer = Answer(began, None, "failed", clean(f"{type(error).__name__}: {error}"))
            self._asked_at = None
            with self._lock:
                if answer is not None and not self._over.is_set():
                    self._answers.append(answer)
                    os.eventfd_write(self.fd, 1)
            self._over.wait(max(0.0, began + self._every_s - self._now()))

    def _since(self, last: float, began: float) -> float:
        # A built-in rate speaks of the time since it was last asked, the others of their own.
        return last if self._objective.better else began - self._looks_back_s
