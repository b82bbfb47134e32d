# SPDX-License-Identifier: Apache-2.0
"""One direction of a link: which frames are lost, and when the others leave.

A frame is lost first, or not; then it waits in the buffer for the bottleneck, unless that is full;
then it is under way for the delay. Only arithmetic, with times that are given: nothing here waits.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from kmind.modules.link.capacity import DELIVERY_BYTES, Capacity, Rate, Trace
from kmind.modules.link.loss import Loss
from kmind.modules.link.trace import Course

__all__ = ["Conditions", "Path", "Tally"]

_Ints = npt.NDArray[np.int64]

_LONGEST = 3_600_000_000_000  # an hour, of a delay and of a jitter
_DAY_S = 86_400
_MOST_BITS = 10**12
_LEAST_BUFFER = 64 << 10
_DEFAULT_S = 0.1  # of the rate
_FAST = 10**9  # bits a second: an aggregated frame takes half a millisecond


@dataclass(frozen=True)
class Conditions:
    """Delay and jitter in ns, loss, and a bottleneck: ``rate`` in bits a second, or ``trace``.

    ``jitter`` is the standard deviation of a normal distribution around the delay (never below 0).
    A frame that drew less than those before it leaves right behind them, unless ``reorder``: so
    with many frames in a jitter's time the mean delay grows. ``rate`` 0 is no bottleneck.
    ``trace`` has times of deliveries in ns (`read_deliveries`).

    ``buffer`` is the bytes that may wait for the bottleneck, the frame that it works on included;
    a frame that does not fit is dropped, but one that finds nothing before it never is. 0 stands
    for 100 ms of the mean rate, and 64 KiB at least.
    """

    delay: int = 0
    jitter: int = 0
    reorder: bool = False
    loss: Loss = field(default_factory=Loss)
    rate: int = 0
    trace: _Ints | None = None
    buffer: int = 0

    def __post_init__(self) -> None:
        bounds = {"delay": _LONGEST, "jitter": _LONGEST, "rate": _MOST_BITS, "buffer": 1 << 40}
        for name, most in bounds.items():
            value = getattr(self, name)
            if not (isinstance(value, int) and 0 <= value <= most):
                raise ValueError(f"link: {name} is {value!r}; it is a whole number up to {most}")
        if self.trace is not None and self.rate:
            raise ValueError("link: it has a rate or a trace, not both")
        if self.room * 8 > self.mean_rate * _DAY_S and self.mean_rate:
            raise ValueError(
                f"link: {self.room} bytes of buffer take over a day at {self.mean_rate:g} bit/s; "
                "give it a smaller one"
            )

    @property
    def mean_rate(self) -> float:
        """Bits a second that the bottleneck lets through; 0 without one."""
        if self.trace is not None:
            return len(self.trace) * DELIVERY_BYTES * 8e9 / int(self.trace[-1])
        return float(self.rate)

    @property
    def room(self) -> int:
        """Bytes of the buffer."""
        return self.buffer or max(int(self.mean_rate / 8 * _DEFAULT_S), _LEAST_BUFFER)

    @property
    def offload(self) -> bool:
        """True if frames may come aggregated, as they pass whole or not at all.

        So not where packets are lost, nor where the bottleneck would take long for one.
        """
        slow = self.trace is not None or 0 < self.rate < _FAST
        return not (self.loss.mean or slow)


@dataclass
class Tally:
    """Packets and bytes that came, and what became of them: all are sent, lost, or found it full.

    Of aggregated frames the packets count that they stand for. What is under way counts as sent.
    """

    packets: int = 0
    bytes: int = 0
    sent: int = 0
    sent_bytes: int = 0
    lost: int = 0
    full: int = 0


class Path:
    """One direction, from ``start`` on: a schedule of departures.

    The same seed and the same frames at the same times make the same schedule, in whatever batches
    they come. With a ``course`` conditions change at its times; ``conditions`` has the rest.
    """

    def __init__(
        self,
        conditions: Conditions,
        seed: np.random.SeedSequence,
        start: int,
        course: Course | None = None,
    ) -> None:
        self.tally = Tally()
        self._first = self.conditions = conditions
        self._losing, jitter = seed.spawn(2)
        self._losses = conditions.loss.start(self._losing)
        self._random = np.random.default_rng(jitter)
        self._start, self._course, self._at = start, course or [], 0
        self._last = start
        self._capacity: Capacity | None = None
        self._set_capacity(start)

    def change(self, conditions: Conditions, now: int) -> None:
        """Let other conditions hold for what comes from now on; what is under way stays so."""
        before, self.conditions = self.conditions, conditions
        if conditions.loss != before.loss:
            self._losing = self._losing.spawn(1)[0]
            self._losses = conditions.loss.start(self._losing)
        if conditions.rate != before.rate or conditions.trace is not before.trace:
            self._set_capacity(max(now, self._capacity.through if self._capacity else now))

    def admit(self, now: int, wire: _Ints, packets: _Ints) -> _Ints:
        """Times at which these frames leave at the other end, in ns; -1 for those that never do.

        They came at ``now``, which is not before that of the last call; ``wire`` and ``packets``
        are the bytes and packets that they stand for.
        """
        while self._at < len(self._course) and self._start + self._course[self._at][0] <= now:
            self._follow(now, self._course[self._at][1])
            self._at += 1
        leaves = np.full(len(wire), -1, np.int64)
        kept = np.flatnonzero(~self._lose(packets))
        fits = kept[self._fitting(now, wire[kept])] if self._capacity else kept
        tally = self.tally
        tally.packets += int(packets.sum())
        tally.bytes += int(wire.sum())
        sent = int(packets[fits].sum())
        tally.sent += sent
        tally.sent_bytes += int(wire[fits].sum())
        tally.full += int(packets[kept].sum()) - sent
        tally.lost += int(packets.sum() - packets[kept].sum())
        if len(fits):
            leaves[fits] = self._depart(now, wire[fits])
        return leaves

    def backlog(self, now: int) -> int:
        """Bytes that wait for the bottleneck."""
        return self._capacity.backlog(now) if self._capacity else 0

    def _lose(self, packets: _Ints) -> npt.NDArray[np.bool_]:
        # A frame goes with any of its packets; `offload` keeps such frames away.
        ends = np.cumsum(packets)
        lost = self._losses.lose(int(ends[-1])) if len(ends) else np.zeros(0, np.bool_)
        if len(lost) == len(packets):
            return lost
        whole: npt.NDArray[np.bool_] = np.logical_or.reduceat(lost, ends - packets)
        return whole

    def _fitting(self, now: int, wire: _Ints) -> npt.NDArray[np.bool_]:
        room = self.conditions.room
        held = self.backlog(now)
        if not len(wire) or held + int(wire.sum()) <= room:
            return np.ones(len(wire), np.bool_)
        fits = []
        for size in wire.tolist():
            fits.append(not held or held + size <= room)
            held += size if fits[-1] else 0
        return np.array(fits)

    def _depart(self, now: int, wire: _Ints) -> _Ints:
        through = self._capacity.send(now, wire) if self._capacity else np.full(len(wire), now)
        delay: _Ints | int = self.conditions.delay
        if jitter := self.conditions.jitter:
            drawn = self._random.standard_normal(len(wire)) * jitter
            delay = np.clip(self.conditions.delay + drawn, 0, 2 * _LONGEST).astype(np.int64)
        leaves = through + delay
        if not self.conditions.reorder:
            leaves = np.maximum(np.maximum.accumulate(leaves), self._last)
            self._last = int(leaves[-1])
        return leaves

    def _set_capacity(self, start: int) -> None:
        conditions = self.conditions
        if conditions.trace is not None:
            self._capacity = Trace(conditions.trace, start)
        elif conditions.rate:
            self._capacity = Rate(conditions.rate, start)
        else:
            self._capacity = None

    def _follow(self, now: int, values: dict[str, float]) -> None:
        first = self.conditions
        loss = Loss(values["loss"]) if "loss" in values else first.loss
        self.change(
            replace(
                first,
                delay=int(values["delay_ms"] * 1e6) if "delay_ms" in values else first.delay,
                jitter=int(values["jitter_ms"] * 1e6) if "jitter_ms" in values else first.jitter,
                rate=int(values["rate_kbit"] * 1e3) if "rate_kbit" in values else first.rate,
                trace=None if "rate_kbit" in values else first.trace,
                loss=loss,
            ),
            now,
        )
