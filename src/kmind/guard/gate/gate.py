# SPDX-License-Identifier: Apache-2.0
"""The gate: BPF programs that see each write to a knob before the kernel does.

While a sysctl is guarded, its owner (this process) can write what was approved and
the previous value, and nothing else; everybody else writes as before, and the
owner is told. How it decides is in gate.bpf.c; files of sysfs are guarded likewise
where the kernel allows it (_lsm.py). Several gates do not disturb each other: each lets
through what comes from others than its own owner.

The programs are attached only while something is guarded (cgroup/sysctl, Linux 5.2;
BPF_F_ALLOW_MULTI). Not safe to share between threads.
"""

from __future__ import annotations

import os
import select
import weakref
from contextlib import ExitStack, suppress
from pathlib import Path

from kmind.bpf import BpfObject, Link, Map, RingBuffer, open_link, open_map
from kmind.errors import BpfError, KmindError, KnobError, PrivilegeError
from kmind.guard.gate._approvals import Approvals
from kmind.guard.gate._cgroup2 import cgroup2_root, private_cgroup2
from kmind.guard.gate._layout import (
    APPROVALS,
    EVENTS,
    FILE,
    FILES,
    HELD,
    HOLDS,
    KEY,
    OWNER,
    GateEvent,
    key_of,
    names_of,
    read_event,
    repin,
    reuse,
)
from kmind.guard.gate._lsm import LSM_LINK, LSM_PINS, SysfsGate, acts
from kmind.knobs import Knob, Target, Value
from kmind.knobs.backend import Guard, SysctlGuard, SysfsGuard

__all__ = ["Gate", "GateEvent"]

_OBJECT = Path(__file__).with_name("gate.bpf.o")
_LINK, _NEW_LINK = "link", "link_new"


class Gate:
    """Guards knobs against writes of this process that were not approved.

    Made by `open` or `adopt`. ``approvals`` are the values that may be written. Nothing is loaded
    before the first `guard`, and nothing is attached or pinned while nothing is guarded. What the
    kernel refuses later raises the errors of `kmind.bpf`.
    """

    def __init__(self, approved_fd: int | None, root: Path | None, mount: bool) -> None:
        self._approved_fd = None if approved_fd is None else os.dup(approved_fd)
        self._root = root
        self._mount = mount
        self._folder: Path | None = None
        self._object: BpfObject | None = None
        self._link: Link | None = None
        self._sysfs: SysfsGate | None = None
        self._pinned_here = False
        self._ring: RingBuffer | None = None
        self._epoll = select.epoll()
        self._guarded: dict[bytes, int] = {}  # and the baseline of each
        self._inherited: set[bytes] = set()  # of those, what nobody here asked to guard yet
        self._returning: set[bytes] = set()
        self.approvals = Approvals(self._guarded)
        self._received: list[bytes] = []
        self._events: list[GateEvent] = []
        self._resources = ExitStack()
        weakref.finalize(self, self._resources.close)

    @classmethod
    def open(
        cls, approved_fd: int | None = None, *, root: Path | None = None, mount: bool = False
    ) -> Gate:
        """A gate that ends with this process, unless it is pinned.

        ``approved_fd`` is the map into which agents write what they approve; it is
        copied. Without one nobody but this process approves anything. ``root`` is the
        cgroup v2 folder whose processes are gated: by default the root of all, and
        where that is not mounted, with ``mount``, one that only this process sees.
        """
        return cls(approved_fd, root, mount)

    @classmethod
    def adopt(
        cls, folder: Path, approved_fd: int | None = None, *, root: Path | None = None
    ) -> Gate:
        """A gate that is pinned in ``folder``, and is taken over if it is there already.

        This process is then the owner of all that it guards, and learns of what was
        written meanwhile; no write passes unseen. What it goes on to hold it guards
        once more, with ``inherit``; then it calls `release_inherited`. ``KmindError`` if
        the gate cannot be taken over: `discard` it then, and restore.
        """
        gate = cls(approved_fd, root, False)
        gate._folder = folder
        if any((folder / name).exists() for name in (_LINK, LSM_LINK)):
            try:
                gate._load(taking_over=True)
                gate._pinned_here = True
                if (folder / _LINK).exists():
                    gate._attach()
                if (folder / LSM_LINK).exists():
                    sysfs = gate._attach_sysfs(folder)
                    for key in gate._inherited:
                        sysfs.allow_return(key)  # what nobody here goes on to hold goes back
            except BaseException:
                gate.close()
                raise
        return gate

    @staticmethod
    def discard(folder: Path) -> None:
        """Remove a gate that is pinned in ``folder``: all is free. Safe to repeat."""
        for name in (_LINK, _NEW_LINK):
            if (folder / name).exists():
                with suppress(BpfError), open_link(folder / name) as link:
                    link.cut()
        for name in (_LINK, _NEW_LINK, *LSM_PINS, FILES, HOLDS, OWNER, EVENTS, APPROVALS):
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()

    @staticmethod
    def covers(knob: Knob, target: Target) -> bool:
        """True if the knob's backend has a guard that works on the running kernel.

        A sysctl has one, and so has a file of sysfs if the kernel asks BPF security modules.
        """
        guard = knob.guard(target)
        return isinstance(guard, SysctlGuard) or (isinstance(guard, SysfsGuard) and acts())

    @staticmethod
    def sees_values(knob: Knob, target: Target) -> bool:
        """True if the gate learns the values that others write, not only that they write."""
        return isinstance(knob.guard(target), SysctlGuard)

    @property
    def fd(self) -> int:
        """A descriptor that is readable while there are events: for a selector."""
        return self._epoll.fileno()

    @property
    def agents_approve(self) -> bool:
        """True if agents in the kernel approve values, and not only the owner."""
        return self._approved_fd is not None

    def guard(self, knob: Knob, target: Target, baseline: Value, *, inherit: bool = False) -> None:
        """Gate a knob from now on; ``baseline`` can always be written.

        Nothing happens if this process guards it already, and if an earlier one does
        whose gate was adopted, with ``inherit``. ``KnobError``, or ``PrivilegeError`` where
        this process may not load programs, says why it cannot be gated: then it must not be
        written.
        """
        key = key_of(knob, target)
        if key in self._guarded and (inherit or key not in self._inherited):
            self._inherited.discard(key)
            if self._sysfs is not None:
                self._sysfs.forget_return(key)
            return
        try:
            if (guard := knob.guard(target)) is None:
                raise KnobError(f"there is no guard for {knob.place(target)}")
            if self._object is None:
                self._load()
            self._attach_for(guard)
            self.events(knob, target)  # what came after an earlier release
            self._inherited.discard(key)
            self._guarded[key] = knob.encode(baseline)
            self.settle(knob, target)
            if isinstance(guard, SysfsGuard):
                self._attach_sysfs().guard(guard.file, key)
                return
            for number, name in enumerate(names_of(guard)):
                self._map(FILES).update(name, FILE.pack(*KEY.unpack(key), number == 0, 0))
        except KmindError as error:
            self.release(knob, target)
            kind = PrivilegeError if isinstance(error, PrivilegeError) else KnobError
            raise kind(
                f"{knob.name} cannot be gated: {error}", hint="kmind only reads it"
            ) from error

    def release(self, knob: Knob, target: Target) -> None:
        """Gate it no more. An approval that came after the last claim is left."""
        key = key_of(knob, target)
        if key in self._guarded:
            self.approvals.end(key)
            self._release(key)
        self._detach_if_idle()

    def release_inherited(self) -> None:
        """Gate no more what was adopted and not guarded anew."""
        for key in list(self._inherited):
            self._release(key)
        self._detach_if_idle()

    def allow_return(self, knob: Knob, target: Target) -> None:
        """Let this process put back the value from before ``guard``, until `end_returns`.

        To a sysctl that is always allowed. What is written to sysfs the gate does not see,
        and has to be told.
        """
        if self._sysfs is not None and isinstance(knob.guard(target), SysfsGuard):
            self._returning.add(key_of(knob, target))
            self._sysfs.allow_return(key_of(knob, target))

    def end_returns(self) -> None:
        """End what `allow_return` began."""
        while self._returning:
            key = self._returning.pop()
            if self._sysfs is not None:
                self._sysfs.forget_return(key)

    def events(self, knob: Knob | None = None, target: Target | None = None) -> list[GateEvent]:
        """Return the writes of others since the last call: to everything, or to one knob."""
        self.collect()
        events, self._events = self._events, []
        if knob is None or target is None:
            return events
        self._events = [e for e in events if (e.knob, e.target) != (knob.id, target.id)]
        return [e for e in events if (e.knob, e.target) == (knob.id, target.id)]

    def collect(self) -> None:
        """Take the events in, to be asked for: ``fd`` is not readable any more."""
        if self._ring is not None:
            self._ring.consume()
        events = self._events + [read_event(data) for data in self._received]
        self._received.clear()
        self._events = [e for e in events if KEY.pack(e.knob, e.target) in self._guarded]

    def noticed(self, knob: Knob, target: Target) -> bool:
        """True if an outsider has written to a guarded knob; until `settle` we cannot."""
        row = self._map(HOLDS).lookup(key_of(knob, target))
        return row is not None and bool(HELD.unpack(row)[1])

    def settle(self, knob: Knob, target: Target) -> None:
        """Let this process write again after an outsider did, whose write had no effect."""
        key = key_of(knob, target)
        self._map(HOLDS).update(key, HELD.pack(self._guarded[key], 0, 0))

    def pin(self, folder: Path) -> None:
        """From now on outlive this process, while anything is guarded: see `adopt`."""
        if any((folder / name).exists() for name in (_LINK, LSM_LINK)):
            raise BpfError(f"another gate is pinned at {folder}", hint="adopt or discard it")
        self._folder = folder
        self._pin_all()

    def close(self) -> None:
        """Let go of it. What is pinned stays, and goes on gating. Safe to repeat."""
        self._drop()
        self._epoll.close()
        if self._approved_fd is not None:
            os.close(self._approved_fd)
            self._approved_fd = None

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _load(self, *, taking_over: bool = False) -> None:
        gate = self._object = BpfObject(_OBJECT)
        self._resources.callback(gate.close)
        try:
            if self._approved_fd is not None:
                reuse(gate.maps[APPROVALS], self._approved_fd)
            for name in self._pinned() if taking_over else ():
                with open_map(self._pin_of(name)) as left:
                    reuse(gate.maps[name], left.fd)
            gate.load()
            self.approvals.bind(gate.maps[APPROVALS])
            if gate.programs["own"].test_run().retval:
                raise BpfError("the gate does not recognise this process as its owner")
            # Not a method of ours: it would keep this object alive.
            self._ring = RingBuffer(gate.maps[EVENTS].fd, self._received.append)
            self._resources.callback(self._ring.close)
            self._epoll.register(self._ring.fd, select.EPOLLIN)
            for key in list(gate.maps[HOLDS].keys()):
                if row := gate.maps[HOLDS].lookup(key):
                    self._guarded[key] = HELD.unpack(row)[0]
            self._inherited = set(self._guarded)
        except BaseException:
            self._drop()
            raise

    def _attach_for(self, guard: Guard) -> None:
        if isinstance(guard, SysfsGuard):
            self._attach_sysfs()
        elif self._link is None:
            self._attach()

    def _attach(self) -> None:
        if self._object is None:
            raise BpfError("the gate is not loaded")
        program = self._object.programs["gate"]
        if root := self._root or cgroup2_root():
            self._link = program.attach_cgroup(root)
        elif self._mount:
            with private_cgroup2() as private:
                self._link = program.attach_cgroup(private)
        else:
            hint = "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"
            raise BpfError("cgroup v2 is not mounted", hint=hint)
        self._pin_all()

    def _attach_sysfs(self, left: Path | None = None) -> SysfsGate:
        if self._object is None:
            raise BpfError("the gate is not loaded")
        if self._sysfs is None:
            self._sysfs = SysfsGate(self._object.maps, left)
            self._resources.callback(self._sysfs.close)
        if not self._sysfs.attached:
            self._sysfs.attach()
            self._pin_all()
        return self._sysfs

    def _release(self, key: bytes) -> None:
        files = self._map(FILES)
        for name in list(files.keys()):
            if (row := files.lookup(name)) and row.startswith(key):
                files.delete(name)
        if self._sysfs is not None:
            self._sysfs.release(key)
        self._map(HOLDS).delete(key)
        del self._guarded[key]
        self._inherited.discard(key)

    @property
    def _attached(self) -> bool:
        return self._link is not None or (self._sysfs is not None and self._sysfs.attached)

    def _detach_if_idle(self) -> None:
        if self._guarded or not self._attached:
            return
        if self._folder is not None:
            self.discard(self._folder)
            self._pinned_here = False
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._sysfs is not None:
            self._sysfs.detach()
        self.collect()

    def _pin_all(self) -> None:
        if self._folder is None or not self._attached:
            return
        if not self._pinned_here:
            self.discard(self._folder)  # one that was cut short may have left maps without a link
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in self._pinned():
                self._map(name).pin(self._pin_of(name))
            self._pinned_here = True
        # The program of a gate that is taken over goes the moment ours has its place.
        if self._link is not None:
            repin(self._link, self._pin_of(_LINK))
        if self._sysfs is not None:
            self._sysfs.pin(self._folder)

    def _pinned(self) -> tuple[str, ...]:
        # Approvals that agents write are pinned by whom they belong to.
        ours = (FILES, HOLDS, OWNER, EVENTS)
        return ours if self.agents_approve else (*ours, APPROVALS)

    def _pin_of(self, name: str) -> Path:
        if self._folder is None:
            raise BpfError("the gate is not pinned")
        return self._folder / name

    def _drop(self) -> None:
        if self._ring is not None:
            with suppress(OSError):
                self._epoll.unregister(self._ring.fd)
        self._resources.close()
        self.approvals.bind(None)
        self._ring = self._object = self._link = self._sysfs = None
        self._guarded.clear()
        self._inherited.clear()

    def _map(self, name: str) -> Map:
        if self._object is None:
            raise BpfError("the gate guards nothing")
        return self._object.maps[name]
