# SPDX-License-Identifier: Apache-2.0
"""From the shared rings to an extension's methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.extension._base import ChangeEvent, Extension, ObjectiveEvent, VerdictEvent
from kmind.extension.context import Context, plain

__all__ = ["Dispatcher", "End"]

_VERDICTS = {number: name.lower() for name, number in layout.VERDICT.items()}
_MODES = {number: name.lower() for name, number in layout.MODE.items()}
_CHANGES: dict[int, Any] = {
    layout.KIND[name]: name.lower()
    for name in ("APPLIED", "UNDONE", "YIELDED", "FAILED", "KEPT", "DROPPED")
}
_OUTCOMES: dict[int, Any] = {
    number: name.lower().replace("_", " ") for name, number in layout.OUTCOME.items()
}
# In these modes nothing is only shadowed or advised: such an answer is of an earlier mode.
_LIVE = frozenset({"canary", "auto"})
_SILENCED = frozenset({"shadowed", "advised"})
_GAPS: dict[int, Any] = {number: name.lower() for name, number in layout.GAP.items()}
_STATUS_EVERY_S = 1.0
_STATUS_MOST = layout.LIMIT["STATUS_SIZE"] - 8  # beside its length


class _Ring(Protocol):
    def peek(self) -> npt.NDArray[np.void]: ...
    def release(self, count: int, /) -> None: ...


class _Answers(Protocol):
    def answers(self) -> Sequence[tuple[int, int]]: ...


class End(Protocol):
    """The extension's end of the rings: ``kmind.queue.Endpoint``, or a replay."""

    @property
    def mode(self) -> int:
        """The agent's mode, as in ``enum kmind_mode``."""

    @property
    def windows(self) -> _Ring:
        """Feature windows."""

    @property
    def records(self) -> Sequence[_Ring]:
        """Records, a ring for each CPU."""

    @property
    def cq(self) -> _Answers:
        """The completion queue."""

    def beat(self) -> None:
        """Tell the watchdog that the extension lives."""

    def wait(self, timeout_s: float, /) -> bool:
        """Sleep until there is something, at most that long; whether there is."""

    def set_status(self, text: bytes, /) -> None:
        """Leave a text for the owner."""


class Dispatcher:
    """Calls one extension for all that one end of the rings has.

    Single-threaded; ``step`` never blocks longer than it is told to, if the
    extension's methods do not. Exceptions of the extension pass through.
    """

    def __init__(self, end: End, extension: Extension, context: Context) -> None:
        self._end = end
        self._extension = extension
        self._context = context
        self._status_at = -_STATUS_EVERY_S
        self._status = b""

    def start(self) -> None:
        """Start the extension, in the mode that the agent is in.

        The first heartbeat comes after that: the agent is not started before it.
        """
        self._context.mode = self._mode()
        self._extension.start()
        self._show_status()
        self._end.beat()

    def step(self, timeout_s: float) -> bool:
        """Wait at most ``timeout_s`` seconds, then hand over what there is; whether there was.

        Answers come before changes and windows, so that an extension knows where its
        recommendations stand when it looks at a window. An answer of an earlier mode is followed
        by the present mode again: the extension may have come to rest by it.
        """
        self._end.beat()
        woken = self._end.wait(timeout_s)
        self._end.beat()
        if (mode := self._mode()) != self._context.mode:
            self._context.mode = mode
            self._extension.on_mode(mode)
        answers = self._end.cq.answers()
        if not (woken or answers):
            return False  # most of an idle extension's turns: nothing else is touched
        for rec_id, number in answers:
            if recommended := self._context.recall(rec_id):
                verdict = _VERDICTS.get(number, "pending")
                self._extension.on_verdict(VerdictEvent(rec_id, verdict, *recommended))
        if mode in _LIVE and any(_VERDICTS.get(number) in _SILENCED for _, number in answers):
            self._extension.on_mode(mode)
        for ring in self._end.records:
            self._take_records(ring)
        windows = self._end.windows.peek()
        if len(windows):
            self._extension.on_windows(windows)
            self._end.windows.release(len(windows))
        self._show_status()
        return woken

    def _mode(self) -> str:
        return _MODES.get(self._end.mode, "emergency")

    def _take_records(self, ring: _Ring) -> None:
        records = ring.peek()
        if not len(records):
            return
        control = records["kind"] < layout.KIND["MODULE"]
        for record in records[control]:
            if int(record["kind"]) in (layout.KIND["OBJECTIVE"], layout.KIND["NO_OBJECTIVE"]):
                self._extension.on_objective(_objective(record))
                continue
            if int(record["kind"]) == layout.KIND["MEASURING"]:
                self._extension.on_measuring(bool(record["value"]))
                continue
            kind = _CHANGES.get(int(record["kind"]))
            recommended = self._context.recall(int(record["subject"]))
            if kind and recommended:
                self._extension.on_change(self._change(kind, record, *recommended))
        own = records[~control] if control.any() else records
        if len(own):
            self._extension.on_records(own)
        ring.release(len(records))

    def _change(self, kind: Any, record: np.void, knob: str, recommended: int | str) -> ChangeEvent:
        number, rec_id = int(record["value"].astype(np.int64)), int(record["subject"])
        if kind == "dropped":
            outcome = _OUTCOMES.get(number, "aborted")
            return ChangeEvent(kind, rec_id, knob, recommended, outcome)
        return ChangeEvent(kind, rec_id, knob, self._context.knobs[knob].decode(number))

    def _show_status(self) -> None:
        now = self._context.now()
        if now - self._status_at < _STATUS_EVERY_S:
            return
        self._status_at = now
        text = msgspec.json.encode(self._extension.status(), enc_hook=plain)
        if len(text) > _STATUS_MOST:
            text = b'{"status":"too long to show"}'
        if text != self._status:
            self._status = text
            self._end.set_status(text)


def _objective(record: np.void) -> ObjectiveEvent:
    end_s = int(record["time_ns"]) / 1e9
    start_s = end_s - int(record["subject"]) / 1000
    number = int(record["value"].astype(np.int64))
    if int(record["kind"]) == layout.KIND["NO_OBJECTIVE"]:
        return ObjectiveEvent(None, start_s, end_s, _GAPS.get(number, "failed"))
    return ObjectiveEvent(number / 1e6, start_s, end_s)
