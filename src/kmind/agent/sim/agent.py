# SPDX-License-Identifier: Apache-2.0
"""The agent without a kernel: the same rings and the same admission, in Python."""

from __future__ import annotations

import mmap
import os
import select
import threading
import time
from collections.abc import Mapping
from typing import Literal, Unpack

import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.agent.codec import decode_action
from kmind.agent.sim.actions import SimActions
from kmind.agent.sim.admission import Admission, Entry
from kmind.agent.sim.hooks import SimHooks
from kmind.agent.sim.leases import SimLeases
from kmind.agent.sim.models import SimModels
from kmind.agent.sim.spec import SimSettings, SimSpec
from kmind.agent.sim.tables import SimTables
from kmind.agent.types import Action, Cause, Kind, Mode
from kmind.errors import KmindError
from kmind.queue import Geometry
from kmind.queue.order import fence

__all__ = ["SimAgent", "SimDoorbell"]

_WORD = 1 << 32
_U64 = (1 << 64) - 1
_FEATURES = layout.LIMIT["FEATURES"]
_CQ_SLOTS = layout.LIMIT["CQ_SLOTS"]
_WINDOW_SLOTS = layout.LIMIT["WINDOW_SLOTS"]
_EMERGENCY = layout.MODE["EMERGENCY"]
_VERDICT = layout.VERDICT
_COUNTERS = layout.COUNTERS
_TICK_BUDGET = 16  # KM_TICK_BUDGET
_IDLE_NS = layout.LIMIT["IDLE_MS"] * 1_000_000


class SimDoorbell:
    """The extension's end of a `SimAgent`'s doorbell; a `kmind.queue.Bell`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def wait(self, timeout_s: float) -> bool:
        """Sleep until it rings, or so many seconds; true if it rang."""
        rang = bool(self._poll.poll(max(0, int(timeout_s * 1000))))
        if rang:
            os.eventfd_read(self._fd)
        return rang


class _Ring:
    # The agent's half of one submission ring: struct km_cpu and km_reserve().

    def __init__(self, control: npt.NDArray[np.uint8], slots: npt.NDArray[np.void]) -> None:
        words = control.view(layout.RING)
        self.published = words["head"]
        self._tail = words["tail"]
        self._slots = slots
        self.head = 0
        self.dropped = 0
        self.bad_tail = 0

    def used(self) -> int:
        return (self.head - int(self._tail[0])) % _WORD

    def push(self, **words: object) -> bool:
        used = self.used()
        if used >= len(self._slots):
            self.bad_tail += used > len(self._slots)
            self.dropped += 1
            return False
        slot = self._slots[self.head % len(self._slots)]
        slot["seq"] = (self.head + self.dropped) % _WORD
        for name, word in words.items():
            slot[name] = word
        self.head = (self.head + 1) % _WORD
        fence()
        slot["commit"] = self.head
        self.published[0] = self.head
        return True


class SimAgent:
    """An agent over a memfd; see `Agent` for what each call does. Thread-safe.

    What the hooks of a real agent do is done by calls: ``count``, ``gauge``,
    ``push``, ``row``, ``leave``, ``hook_end``, ``models.decide``. ``gauges`` names the columns that
    are set, not added to; ``hooks`` the programs that it pretends to have, ``model`` how it
    decides, ``tables`` what it counts in by key.
    With ``leases`` it takes part in them as ``slot``; without, it knows of no other agent.
    With ``realtime`` a thread ticks from ``start`` on; without it the caller does, by
    ``step``, and time begins at ``now_ns`` and goes on as ``step`` says.
    """

    backend: Literal["bpf", "sim"] = "sim"

    def __init__(
        self,
        *,
        realtime: bool = True,
        now_ns: int | None = None,
        nr_cpus: int = 1,
        sq_slots: int = 8192,
        leases: SimLeases | None = None,
        slot: int = 0,
        **settings: Unpack[SimSettings],
    ) -> None:
        spec = SimSpec(**settings)
        self.geometry = Geometry.plan(nr_cpus, sq_slots)
        self.arena_size = self.geometry.size
        self.arena_address = 0
        self.arena_fd = os.memfd_create("kmind-arena")
        os.ftruncate(self.arena_fd, self.arena_size)
        memory = mmap.mmap(self.arena_fd, self.arena_size)
        #: The arena as its owner maps it: bytes of shape ``(arena_size,)``.
        self.arena: npt.NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
        self.geometry.write_header(self.arena)
        self.doorbell_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self._actions = SimActions(slot)
        self.action_fd = self._actions.fd
        self._tick_s = spec.tick_s
        self._window_ns = int(spec.window_s * 1e9)
        self._deadline_ns = int(spec.deadline_s * 1e9)
        self._gauges = frozenset(spec.gauges)
        self._realtime = realtime
        self._now = time.monotonic_ns() if now_ns is None else now_ns
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.admission = Admission(self._lock, leases, slot)
        self.hooks = SimHooks(spec.hooks)
        self.models = SimModels(self._lock, spec.model)
        self._tables = SimTables(spec.tables)
        self._values = [0] * _FEATURES
        self._last_values = [0] * _FEATURES
        self._counted = self._window_counted = 0
        self._beat = 0
        self._beat_ns = self._window_start = self._now
        self._cause = Cause.ASKED
        self._window_due = self._now + self._window_ns
        self._rung = 0
        self._cq_head = 0
        self._counters = dict.fromkeys([*_COUNTERS, "bad_cq_tail", "hook_runs"], 0)
        self._verdicts = dict.fromkeys(_VERDICT.values(), 0)
        self._map_rings()

    def _map_rings(self) -> None:
        arena, where = self.arena, self.geometry
        self._header = arena[: layout.HEADER.itemsize].view(layout.HEADER)[0]
        size = layout.RING.itemsize
        rings = [arena[where.rings + n * size :][:size] for n in range(where.nr_cpus + 1)]
        records = arena[where.sq :][: where.nr_cpus * where.sq_slots * layout.RECORD.itemsize]
        shares = records.view(layout.RECORD).reshape(where.nr_cpus, where.sq_slots)
        self._records = [_Ring(ring, share) for ring, share in zip(rings, shares, strict=False)]
        windows = arena[where.windows :][: _WINDOW_SLOTS * layout.WINDOW.itemsize]
        self._windows = _Ring(rings[-1], windows.view(layout.WINDOW))

    # Called by the owner

    @property
    def table_fds(self) -> Mapping[str, int]:
        """Its tables by name: descriptors to map by."""
        return self._tables.fds

    def start(self) -> None:
        """Arm the tick: a thread that ticks in real time, unless the caller does."""
        with self._lock:
            self._now = time.monotonic_ns() if self._realtime else self._now
            self._beat_ns = self._window_start = self._now
            self._window_due = self._now + self._window_ns
            self.hooks.running = True
        if self._realtime:
            self._thread = threading.Thread(target=self._tick_on, name="kmind-sim", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop ticking and close the descriptors."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._lock:
            if self._closed:
                return
            self._closed, self.hooks.running = True, False
            for fd in (self.arena_fd, self.doorbell_fd):
                os.close(fd)
            self._actions.close()
            self._tables.close()

    @property
    def mode(self) -> int:
        """The mode that it is in, as ``enum kmind_mode``; 0: none."""
        return self.admission.mode

    @property
    def cause(self) -> Cause:
        """The reason for its last change of mode."""
        return self._cause

    def set_mode(self, mode: Mode) -> None:
        """Move to a mode."""
        with self._lock:
            # The watchdog counts anew from here.
            self._beat_ns = self._now
            self._enter_mode(int(mode), layout.CAUSE["ASKED"])

    def notify(self, kind: Kind, rec_id: int, value: int) -> None:
        """Tell the extension what became of a recommendation."""
        with self._lock:
            self._counters["applied"] += kind in (layout.KIND["APPLIED"], layout.KIND["KEPT"])
            self._counters["undone"] += kind == layout.KIND["UNDONE"]
            self.push(int(kind), rec_id, value, self._now)

    def poll(self, timeout_s: float) -> list[Action]:
        """Wait for actions at most that long."""
        if self._closed:
            raise KmindError("the agent is closed")
        if not self._actions.wait(timeout_s):
            return []
        with self._lock:
            told = self._actions.pop_all()
            return [decode_action(packed, self.arena, self.geometry) for packed in told]

    def account(self) -> Mapping[str, int]:
        """Counters kept by the agent."""
        with self._lock:
            counters = {
                "pushed": sum(ring.head for ring in self._records),
                "dropped": sum(ring.dropped for ring in [*self._records, self._windows]),
                "bad_tail": self._counters["bad_cq_tail"]
                + sum(ring.bad_tail for ring in [*self._records, self._windows]),
                "hook_runs": self._counters["hook_runs"],
                "hook_ns": 0,  # it has no hooks: their time is the caller's
                "heartbeat_ns": self._beat_ns,
            }
            counters |= {name: self._counters[name] for name in _COUNTERS}
            counters["actions_lost"] = self._actions.lost
            for name, code in _VERDICT.items():
                if code:
                    counters[f"verdict_{name.lower()}"] = self._verdicts[code]
            return counters

    def feature(self, column: int) -> int:
        """A counter's total since the agent was made."""
        with self._lock:
            return self._values[column]

    # Called by hooks

    def count(self, feature: int, by: int = 1, *, by_extension: bool = False) -> None:
        """Add to a feature of the open window; what an extension does is passed over."""
        if by_extension:
            return
        with self._lock:
            self._values[feature] = (self._values[feature] + by) & _U64

    def gauge(self, feature: int, value: int) -> None:
        """Set a feature to what it is now."""
        with self._lock:
            self._values[feature] = value & _U64

    def push(self, kind: int, subject: int, value: int, time_ns: int = 0, *, cpu: int = 0) -> bool:
        """Push one record; false if it was dropped because the ring is full."""
        with self._lock:
            done = self._records[cpu].push(
                kind=kind, cpu=cpu, subject=subject, value=value & _U64, time_ns=time_ns
            )
            if done:
                self._ring_doorbell()
            return done

    def row(self, table: str, **key: object) -> npt.NDArray[np.void] | None:
        """A key's row, made if there is none: one element to count in; None without room."""
        with self._lock:
            return self._tables[table].row(key, self._now)

    def leave(self, table: str, **key: object) -> None:
        """Take a key out of a table."""
        with self._lock:
            self._tables[table].leave(key, self._now)

    def hook_end(self) -> None:
        """Answer a recommendation that waits, as each hook does when it ends."""
        with self._lock:
            self._counters["hook_runs"] += 1
            self._admit(1)

    def step(self, now_ns: int) -> None:
        """One tick at that time, in nanoseconds: answer, watch, close a window."""
        with self._lock:
            self._now = now_ns
            if not self.hooks.running:
                return
            self._counters["ticks"] += 1
            self._header["agent_ns"] = now_ns
            self._admit(_TICK_BUDGET)
            self._watch()
            if now_ns >= self._window_due:
                self._close_window()
            self._tables.look_through(now_ns, self._counters["ticks"])
            if any(ring.used() for ring in [*self._records, self._windows]):
                self._ring_doorbell()

    # The agent library

    def _tick_on(self) -> None:
        while not self._stop.wait(self._tick_s):
            self.step(time.monotonic_ns())

    def _watch(self) -> None:
        beat = int(self._header["heartbeat"])
        if beat != self._beat:
            self._beat = beat
            self._beat_ns = self._now
        elif self._now - self._beat_ns > self._deadline_ns and self.admission.mode != _EMERGENCY:
            self._enter_mode(_EMERGENCY, layout.CAUSE["STALLED"])

    def _enter_mode(self, mode: int, cause: int) -> None:
        self._cause = Cause(cause)
        self.admission.mode = mode
        self._header["mode"] = mode
        self.push(layout.KIND["MODE"], cause, mode, self._now)
        kind = layout.ACTION_KIND["MODE"]
        self._actions.notify(kind=kind, verdict=cause, mode=mode, time_ns=self._now)

    def _ring_doorbell(self) -> None:
        asleep = int(self._header["need_wakeup"])
        if asleep and asleep != self._rung:
            self._rung = asleep
            self._counters["wakeups"] += 1
            os.eventfd_write(self.doorbell_fd, 1)

    def _close_window(self) -> None:
        self._window_due = self._now + self._window_ns
        counted = sum(v for n, v in enumerate(self._values) if n not in self._gauges)
        self._counters["busy"] += counted != self._counted
        self._counted = counted
        # Nothing to tell: let the reader sleep on.
        if counted == self._window_counted and self._now - self._window_start < _IDLE_NS:
            return
        # No room: the counters run on, and the next window covers this one too.
        if self._windows.used() == _WINDOW_SLOTS:
            return
        done = self._windows.push(
            value=[
                value if feature in self._gauges else (value - last) & _U64
                for feature, (value, last) in enumerate(
                    zip(self._values, self._last_values, strict=True)
                )
            ],
            mode=self.admission.mode,
            dropped=sum(ring.dropped for ring in self._records) % _WORD,
            start_ns=self._window_start,
            end_ns=self._now,
        )
        if done:
            self._last_values = list(self._values)
            self._window_counted = counted
            self._window_start = self._now
            self._counters["windows"] += 1

    def _admit(self, budget: int) -> None:
        for _ in range(budget):
            pending = (int(self._header["cq_tail"]) - self._cq_head) % _WORD
            if not pending:
                return
            if pending > _CQ_SLOTS:
                # No honest writer is that far ahead. Catch up; count it.
                self._counters["bad_cq_tail"] += 1
                self._answered(pending)
                return
            fence()
            self._admit_one(self._cq_head)
            self._answered(1)

    def _answered(self, count: int) -> None:
        self._cq_head = (self._cq_head + count) % _WORD
        self._header["cq_head"] = self._cq_head

    def _admit_one(self, position: int) -> None:
        slot = position % _CQ_SLOTS
        start = self.geometry.cq + slot * layout.RECOMMENDATION.itemsize
        packed = self.arena[start : start + layout.RECOMMENDATION.itemsize]
        entry = Entry.copy(packed.tobytes(), position)
        verdict, current = self.admission.decide(entry, self._now)
        # First the room to tell the owner, then the right to change.
        holder = previous = 0
        if self._actions.may_tell(self._now):
            verdict, holder, previous = self.admission.among_others(entry, verdict, self._now)
            if verdict < _VERDICT["EMERGENCY"] or self._actions.may_tell_refusal(self._now):
                self._actions.notify(
                    kind=layout.ACTION_KIND["VERDICT"],
                    verdict=verdict,
                    id=entry.id,
                    mode=self.admission.mode,
                    knob=entry.knob,
                    target=entry.target,
                    value=entry.value,
                    current=current,
                    time_ns=self._now,
                    hold_ms=entry.hold_ms,
                    slot=slot,
                    note=entry.note,
                    model=entry.model,
                    holder=holder,
                    previous=previous,
                )
            else:
                self._actions.lost += 1
        else:
            self._actions.lost += 1
            if verdict < _VERDICT["EMERGENCY"]:
                verdict = _VERDICT["BUSY"]
        if verdict == _VERDICT["APPROVED"]:
            self.admission.settle(entry, self._now)
        self._verdicts[verdict] += 1
        fence()
        # Verdict and id in one store: the answer is whole or absent.
        packed[56:].view(np.uint64)[0] = verdict | entry.id << 32
