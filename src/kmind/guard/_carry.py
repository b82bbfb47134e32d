# SPDX-License-Identifier: Apache-2.0
"""Carrying a change to what the kernel copied the knob's value into before: to open files.

A thread does it, for it takes as long as there are open files on the machine, and the owner's
thread waits for nobody's. It has so long for each change, those first that are being read, and
says how many files it has not reached.

Where a value is lowered, a stream goes on with the largest window that it ever had: where
readahead was started ahead of time, the next window is never smaller than the last one
(mm/readahead.c, page_cache_async_ra; seen on 6.18, where lowering the value had no effect on
a reader in order). So readahead is switched off (``Knob.drain``) until what was read ahead is
used up. That is not for nothing: meanwhile each page that is read waits for the disk by
itself. The journal knows of it before it is done, so that it can be told from an admin's 0.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kmind.errors import BusyError, JournalError, KmindError
from kmind.guard._owner import Owner
from kmind.guard._watch import watch_writes
from kmind.guard.journal import Drain, Journal
from kmind.guard.openfiles import Refreshed, refresh_open_files, refresh_streams
from kmind.knobs import Knob, Target, Value, get_knob, parse_target

__all__ = ["LONG_S", "SHORT_S", "Carrier", "end_drains_left", "finish_carrying"]

SHORT_S = 0.07
"""For that long files are told where two values are compared: within what is washed out
between blocks (``Design.wash_out_s``), the drain after it included."""

LONG_S = 2.0
"""For that long they are told of a value that is to stand."""

_OWNER_S = 0.01  # so long the owner waits, for most machines are done by then
_DRAIN_S = 0.03  # two windows of 8 MiB are read in that time at 560 MB/s
_STILL_S = 1.0

_Key = tuple[str, str]


@dataclass(eq=False)
class _Job:
    # One change on its way. ``draining``: the knob holds its drain by our hand just now;
    # ``stuck``: it does, and could not be set again.
    knob: Knob
    target: Target
    olds: set[int]
    new: int
    lowered: bool
    deadline: float
    journal: Path
    refreshed: Refreshed | None = None
    draining: bool = False
    stuck: bool = False
    undisturbed: Callable[[], bool] = lambda: True
    cancelled: threading.Event = field(default_factory=threading.Event)
    told: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def key(self) -> _Key:
        return self.knob.name, self.target.name

    def more(self) -> bool:
        return not self.cancelled.is_set() and time.monotonic() < self.deadline

    def run(self) -> None:
        try:
            self.refreshed = refresh_open_files(self.target, self.olds, self.new, more=self.more)
            drains = self.lowered and self.refreshed.streams and not self.cancelled.is_set()
            if drains and self.journal.exists():  # it may have gone with a bench's folder
                with Journal(self.journal) as journal:
                    self._drain(journal, self.refreshed)
        except KmindError:
            pass  # the disk is gone, or does not take it: putting back says so
        finally:
            self.told.set()
            self.done.set()
            _running.discard(self)

    def _drain(self, journal: Journal, refreshed: Refreshed) -> None:
        knob, target = self.knob, self.target
        assert knob.drain is not None
        number = journal.begin_drain(knob, target, self.new)
        with watch_writes(Path(knob.place(target))) as writes:
            with self.lock:
                # The owner changes the knob only after it has cancelled this.
                if self.cancelled.is_set() or knob.read(target) != self.new:
                    journal.end_drain(number)
                    return
                knob.write(target, knob.drain)
                self.draining = True
                mine = writes.count()
                # Somebody who wrote meanwhile is right, be it the very value that drains.
                self.undisturbed = lambda: writes.count() == mine
            self.told.set()
            try:
                refresh_streams(refreshed.streams, more=self._goes_on)
                _pause(self.cancelled)
            finally:
                with self.lock:
                    if self.draining:
                        self._end_drain()
                    self.draining = False
        journal.end_drain(number)
        # Files that were opened meanwhile have taken it over; so all are looked through.
        refresh_open_files(target, {knob.drain}, self.new)

    def _end_drain(self) -> None:
        # Under the lock.
        self.stuck = True
        if self.knob.read(self.target) == self.knob.drain and self.undisturbed():
            self.knob.write(self.target, self.new)
        self.stuck = False

    def _goes_on(self) -> bool:
        return not self.cancelled.is_set()


def _pause(cancelled: threading.Event) -> None:
    cancelled.wait(_DRAIN_S)


_running: set[_Job] = set()


def finish_carrying() -> None:
    """Wait until open files were told, at most for their time; no knob is left drained.

    Before a process ends, or becomes another by exec: its threads end then.
    """
    until = time.monotonic() + LONG_S
    for job in list(_running):
        job.done.wait(max(0.0, until - time.monotonic()))
        _cancel(job)


atexit.register(finish_carrying)
os.register_at_fork(after_in_child=_running.clear)  # threads do not survive a fork


def _cancel(job: _Job) -> None:
    with job.lock:
        job.cancelled.set()
    until = time.monotonic() + _STILL_S
    while job.draining and time.monotonic() < until:
        time.sleep(0.0002)
    with job.lock:
        # A job that hangs in a file of somebody else's finds that this was done for it.
        if job.draining or job.stuck:
            job.draining = False
            with suppress(KmindError):
                job._end_drain()
            job.stuck = False


class Carrier:
    """Pending changes of one owner, or of one restore; belongs to one thread.

    Call ``still`` before the knob is written, ``carry`` after it. ``look`` now and then, or
    ``finish``, closes those that are over.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal.path
        self._jobs: dict[_Key, _Job] = {}
        self._left: dict[_Key, tuple[_Job, set[int]]] = {}
        self._ending: list[_Job] = []

    def carry(
        self,
        knob: Knob,
        target: Target,
        olds: set[Value | None],
        new: Value,
        *,
        for_s: float = LONG_S,
    ) -> str:
        """Let what was copied follow; in a few words how far that came at once, or "".

        ``olds`` are the values that may have been copied, ``new`` the present one; for that
        many seconds files are told, by another thread.
        """
        if not _carried(knob, target) or not isinstance(new, int):
            return ""
        numbers = {v for v in olds if isinstance(v, int)}
        key = knob.name, target.name
        if key in self._left:
            numbers |= self._left.pop(key)[1]
        lowered = knob.drain is not None and knob.drain < new < max(numbers, default=new)
        job = _Job(knob, target, numbers, new, lowered, time.monotonic() + for_s, self._journal)
        return self._start(job)

    def complete(self, knob: str, target: str) -> None:
        """Tell the files that were not reached, as the value is to stand."""
        self.still(knob, target)
        if (knob, target) in self._left:
            job, olds = self._left.pop((knob, target))
            until = time.monotonic() + LONG_S
            self._start(_Job(job.knob, job.target, olds, job.new, False, until, self._journal))

    def _start(self, job: _Job) -> str:
        self._jobs[job.key] = job
        _running.add(job)
        threading.Thread(target=job.run, name="kmind-files", daemon=True).start()
        job.told.wait(_OWNER_S)
        return "open files are being told" if job.refreshed is None else str(job.refreshed)

    def still(self, knob: str, target: str) -> None:
        """Let the knob hold what it is to hold, and stop what is under way for it."""
        job = self._jobs.pop((knob, target), None)
        if job is None:
            return
        _cancel(job)
        self._over(job)
        self._ending = [job for job in self._ending if not job.done.is_set()] + [job]

    def _over(self, job: _Job) -> None:
        if not job.done.is_set() or job.refreshed is None or job.refreshed.late:
            # Those not reached hold any of these; the next change finds them.
            drained = {job.knob.drain} if job.lowered and job.knob.drain is not None else set()
            self._left[job.key] = job, job.olds | drained | {job.new}

    def value(self, knob: Knob, target: Target) -> Value:
        """Return the knob's value, even while it is drained for a moment. Raises KnobError."""
        job = self._jobs.get((knob.name, target.name))
        if job is None or not job.lowered:
            return knob.read(target)
        current = knob.read(target)
        # The second look, as it may have begun or ended in between.
        return job.new if current == knob.drain and self._drains(job) else knob.read(target)

    def _drains(self, job: _Job) -> bool:
        with job.lock:
            return job.draining

    @property
    def busy(self) -> bool:
        """True if ``look`` has something to close."""
        return bool(self._jobs)

    def look(self) -> list[str]:
        """Close what is over; sentences about files that were not reached."""
        remarks = []
        for key, job in list(self._jobs.items()):
            if not job.done.is_set():
                continue
            del self._jobs[key]
            self._over(job)
            if job.refreshed is not None and (late := job.refreshed.late):
                remarks.append(
                    f"{late} open files of {key[1]} were not told of {key[0]} {job.new} in time, "
                    "and keep the value of before"
                )
        return remarks

    def finish(self) -> list[str]:
        """Wait for what is under way, at most for its time; as ``look``. No owner's thread may."""
        for job in [*self._ending, *self._jobs.values()]:
            job.done.wait(LONG_S + _STILL_S)
        return self.look()


def end_drains_left(journal: Journal, root: Path, *, force: bool = False) -> None:
    """Set the knobs that a process drained, and left so as it died, to what they were to hold.

    Those of a running process are its own, unless ``force``. Raises JournalError or BusyError,
    once all are set, if the journal cannot be written.
    """
    unrecorded: JournalError | BusyError | None = None
    for drain in journal.drains():
        if force or not _runs(drain):
            with suppress(KmindError):
                knob, target = get_knob(drain.knob), parse_target(drain.target, root=root)
                if knob.identity(target) == drain.identity and knob.read(target) == knob.drain:
                    knob.write(target, drain.value)
            try:
                journal.end_drain(drain.id)
            except (JournalError, BusyError) as error:
                unrecorded = error
    if unrecorded:
        raise unrecorded


def _runs(drain: Drain) -> bool:
    owner = Owner("", 0, drain.pid, drain.start)
    if drain.pid == os.getpid():  # this process, perhaps before an exec, which ended its threads
        return any(job.key == (drain.knob, drain.target) for job in list(_running))
    return owner.alive()


def _carried(knob: Knob, target: Target) -> bool:
    # Of another root, a model's, the kernel knows nothing.
    return knob.propagate == "open_files" and target.root == Path("/")
