# SPDX-License-Identifier: Apache-2.0
"""The core object: what all agents share, pinned so that it outlives the daemon.

It holds the instances with their accounts, the leases, the ring in which approved
recommendations reach their owner, what the gate lets through, and the classes. Its one
owner (the daemon, or ``kmind run``) is trusted and single-threaded. ``stats`` below its
root, and ``instances/NAME`` for each pinned agent, can be read with ``cat``.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import numpy as np

from kmind.abi import layout
from kmind.agent.core import pins as pins
from kmind.agent.core.codec import (
    HOLDER,
    Approved,
    Claim,
    CoreInstance,
    Fill,
    Lease,
    grant_key,
    text,
)
from kmind.agent.types import Action
from kmind.bpf import BpfObject, Map, RingBuffer, read_iter
from kmind.errors import KmindError
from kmind.util.names import file_name

__all__ = ["ROOT", "Approved", "Claim", "Core", "CoreInstance", "Fill", "Lease"]

ROOT = Path("/sys/fs/bpf/kmind")

_INSTANCES = layout.LIMIT["INSTANCES"]
_CLASSES = layout.LIMIT["CLASSES"]
_MOST_WAITING = 4096  # actions that wait for an instance to be taken over
_ZERO = bytes(4)
_PATIENCE = 1000
_MODE_AT = layout.INSTANCE.fields["mode"][1]  # type: ignore[index]
_BUSY, _FULL = -errno.EBUSY, -errno.ENOSPC

_Decode = Callable[[bytes], Action]


class Core:
    """The maps of one core object. Made by `open` or `private`.

    Slots are numbers from 1 to 63, one for each instance. Errors are BpfError,
    PrivilegeError, NotSupportedError, and KmindError for what makes no sense.
    """

    def __init__(self, loaded: pins.Loaded, root: Path | None) -> None:
        self._loaded = loaded
        self.root = root
        self._decode: dict[int, _Decode] = {}
        self._waiting: dict[int, list[bytes]] = {}
        self._ready: dict[int, list[Action]] = {}
        self._since = {each.slot: each.started_ns for each in self.instances()}
        self._ring = RingBuffer(self._map("actions").fd, self._take)

    @classmethod
    def open(cls, root: Path = ROOT, *, mount: bool = False) -> Self:
        """The core that is pinned at ``root``, or a new one, pinned there.

        With ``mount`` a bpf file system is mounted at /sys/fs/bpf if there is none.
        Raises KmindError if the pinned one is of another ABI.
        """
        return cls(pins.open_or_make(root, mount=mount), root)

    @classmethod
    def private(cls) -> Self:
        """One without pins, which ends with this process."""
        return cls(pins.make(), None)

    @property
    def action_fd(self) -> int:
        """Readable when `poll` has something; for a selector."""
        return self._ring.fd

    @property
    def approved_fd(self) -> int:
        """Descriptor of the map that the gate reads: grant key to ``struct kmind_approved``."""
        return self._map("approved").fd

    def map_fd(self, name: str) -> int:
        """Descriptor of a map: instances, leases, approved, actions, owner, classes."""
        return self._map(name).fd

    def folder(self, name: str) -> Path:
        """Where the agent of an instance is pinned."""
        if self.root is None:
            raise KmindError("a private core has no pins")
        return self.root / "agents" / file_name(name)

    def share(self, agent: BpfObject) -> None:
        """Put the core's maps in the place of an agent's own; before load only."""
        for name in pins.SHARED:
            agent.maps[f"km_{name}"].reuse_fd(self._map(name).fd)

    # Instances

    def register(self, name: str, module: str, class_: str, pid: int = 0, uid: int = 0) -> int:
        """Enter an instance; its slot. KmindError if the name is taken or no slot is free."""
        taken = {each.slot: each for each in self.instances()}
        if any(each.name == name for each in taken.values()):
            raise KmindError(f"there is an instance {name} already", hint="unload it first")
        free = (slot for slot in range(1, _INSTANCES) if slot not in taken)
        slot = next(free, 0)
        if not slot:
            raise KmindError(
                f"no room for {name}: {len(taken)} instances are there", hint="unload one first"
            )
        words = np.zeros((), layout.INSTANCE)
        for field, value in (("name", name), ("module", module), ("class_name", class_)):
            words[field] = text(value, layout.INSTANCE[field].itemsize, field)
        words["slot"] = slot
        words["started_ns"] = time.monotonic_ns()
        self._count_class(class_, 1)
        self._map("instances").update(_key(slot), words.tobytes())
        self._since[slot] = int(words["started_ns"])
        self.set_process(slot, pid, uid)
        return slot

    def unregister(self, slot: int) -> None:
        """Remove an instance and its leases; nothing if it is not there. Close its agent first."""
        self.detach(slot)
        self._since.pop(slot, None)
        self._waiting.pop(slot, None)
        instance = self.instance(slot)
        if instance is None:
            return
        self._call("LEAVE_ALL", slot=slot)
        for key, approved in self.approved().items():
            if approved.instance == slot:
                self.disapprove(*key, slot)
        self._map("instances").update(_key(slot), bytes(layout.INSTANCE.itemsize))
        self._count_class(instance.class_, -1)

    def set_process(self, slot: int, pid: int, uid: int) -> None:
        """Say which process is an instance's extension now."""
        self._call("PROCESS", slot=slot, pid=pid, uid=uid)

    def instance(self, slot: int) -> CoreInstance | None:
        """One instance with its account; None if the slot is free."""
        packed = self._map("instances").lookup(_key(slot))
        words = np.frombuffer(packed or b"", layout.INSTANCE)
        return CoreInstance.read(words[0]) if len(words) and words[0]["slot"] else None

    def instances(self) -> list[CoreInstance]:
        """All instances, by slot."""
        found = (self.instance(slot) for slot in range(1, _INSTANCES))
        return [each for each in found if each is not None]

    def classes(self) -> Mapping[str, int]:
        """Each class that was ever used, and how many instances it has."""
        rows = (self._class(index) for index in range(_CLASSES))
        return {name: count for name, count in rows if name}

    # Leases

    def leases(self) -> list[Lease]:
        """All leases that are held, those among them that have expired and were not given back."""
        rows = self._loaded.leases()
        return sorted(Lease.read(row) for row in rows[rows["word"] & HOLDER != 0])

    def lease(self, knob: int, target: int) -> Lease | None:
        """The lease of one knob, if it is held; it may have expired, as those of `leases`."""
        found = (each for each in self.leases() if (each.knob, each.target) == (knob, target))
        return next(found, None)

    def place(self, slot: int, knob: int, target: int) -> int:
        """Reserve the place of a lease for an instance that is granted the knob; its handle.

        An agent finds the lease by it. It is the instance's until `leave`, or until it is
        unregistered. KmindError if there is no room.
        """
        after = self._call("PLACE", slot=slot, knob=knob, target=target)
        if int(after["result"]) == _FULL:
            size = layout.LIMIT["LEASES"]
            raise KmindError(
                f"no room for one more lease: {size} knobs of all targets are granted",
                hint="unload an instance first; see: kmind status",
            )
        if int(after["result"]) < 0:
            raise KmindError(f"slot {slot} is no instance's, so it can be granted nothing")
        return int(after["lease"])

    def leave(self, slot: int, knob: int, target: int) -> None:
        """Take back what `place` gave; nothing if it gave nothing."""
        self._call("LEAVE", slot=slot, knob=knob, target=target)

    def fill(self) -> Mapping[str, Fill]:
        """How full the tables are that all instances share."""
        leases, approved = self._loaded.leases(), self._map("approved")
        return {
            "instances": Fill(len(self.instances()), _INSTANCES - 1),
            "leases": Fill(int((leases["key"] != 0).sum()), len(leases)),
            "approvals": Fill(sum(1 for _ in approved.keys()), approved.max_entries),  # noqa: SIM118
        }

    def mode(self, slot: int) -> int:
        """The mode that an instance's agent is in, as ``enum kmind_mode``; 0: none."""
        packed = self._map("instances").lookup(_key(slot)) or bytes(layout.INSTANCE.itemsize)
        return int.from_bytes(packed[_MODE_AT : _MODE_AT + 4], "little")

    def acquire(
        self, slot: int, knob: int, target: int, *, hold_s: float, priority: int = 100
    ) -> Claim:
        """Take a lease for an instance, or hold on to it, as its agent would."""
        words = {"knob": knob, "target": target, "priority": priority}
        after = self._call("ACQUIRE", slot=slot, hold_ms=int(hold_s * 1000), **words)
        return Claim(int(after["result"]) > 0, int(after["holder"]), int(after["previous"]))

    def release(self, slot: int, knob: int | None = None, target: int | None = None) -> int:
        """Give back one lease of an instance, or all without a knob; how many it were."""
        if knob is None:
            return int(self._call("RELEASE_ALL", slot=slot)["result"])
        return int(self._call("RELEASE", slot=slot, knob=knob, target=target or 0)["result"])

    def free(self, slot: int, knob: int, target: int) -> None:
        """Give back what an instance holds no longer: its lease, and what the gate lets through."""
        self.release(slot, knob, target)
        self.disapprove(knob, target, slot)

    # What the gate lets through

    def approve(
        self, knob: int, target: int, value: int, baseline: int, slot: int, rec_id: int = 0
    ) -> None:
        """Let the owner write a value, and write the baseline back; as an agent's verdict does."""
        words = np.zeros((), layout.APPROVED)
        words["value"], words["baseline"], words["instance"] = value, baseline, slot
        words["id"], words["time_ns"] = rec_id, time.monotonic_ns()
        self._map("approved").update(grant_key(knob, target), words.tobytes())

    def disapprove(self, knob: int, target: int, slot: int = 0) -> bool:
        """Let nothing through any more; false if that was so, or it is another slot's."""
        return bool(self._call("DISAPPROVE", slot=slot, knob=knob, target=target)["result"])

    def approved(self) -> Mapping[tuple[int, int], Approved]:
        """What may be written now, by knob and target."""
        rows = self._map("approved")
        found = {}
        for key in rows.keys():  # noqa: SIM118
            if packed := rows.lookup(key):
                knob, target = np.frombuffer(key, layout.GRANT_KEY)[0].item()
                found[knob, target] = Approved.read(packed)
        return found

    # The owner

    def beat(self) -> None:
        """Say that the owner lives. Once it did, agents approve nothing 5 s after the last beat."""
        self._map("owner").update(_ZERO, pins.owner_words(time.monotonic_ns()))

    def owner(self) -> tuple[int, float]:
        """Process id of the last owner, and seconds since its last beat (infinite: none)."""
        words = np.frombuffer(self._map("owner").lookup(_ZERO) or b"", layout.OWNER)[0]
        beat = int(words["beat_ns"])
        return int(words["pid"]), (time.monotonic_ns() - beat) / 1e9 if beat else float("inf")

    def attach(self, slot: int, decode: _Decode) -> None:
        """Send a slot's actions through ``decode``; those that waited for it come first."""
        self._decode[slot] = decode
        for packed in self._waiting.pop(slot, []):
            self._ready.setdefault(slot, []).append(decode(packed))

    def detach(self, slot: int) -> None:
        """Forget how to decode a slot's actions: from now on they wait."""
        self._decode.pop(slot, None)
        self._ready.pop(slot, None)

    def poll(self, timeout_s: float) -> dict[int, list[Action]]:
        """Wait for actions at most that long; all that came, in order, by slot."""
        self.wait(timeout_s)
        ready, self._ready = self._ready, {}
        return ready

    def receive(self, slot: int, timeout_s: float) -> list[Action]:
        """As `poll`, for one slot; those of others are kept for them."""
        self.wait(0 if self._ready.get(slot) else timeout_s)
        return self._ready.pop(slot, [])

    def wait(self, timeout_s: float) -> None:
        """Read what is in the ring, waiting for it at most that long."""
        if not self._ring.consume():  # hooks do not wake: the tick does, a little later
            self._ring.poll(max(0, int(timeout_s * 1000)))

    def stats(self) -> str:
        """What ``cat ROOT/stats`` shows."""
        return read_iter(self._loaded.stats).decode()

    def close(self) -> None:
        """Let go of it. What is pinned stays. Safe to repeat."""
        self._ring.close()
        self._loaded.close()

    def remove(self) -> None:
        """Remove the pins, and close. Agents that are there keep the maps that they have."""
        self.close()
        if self.root is not None:
            pins.remove(self.root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _map(self, name: str) -> Map:
        return self._loaded.maps[name]

    def _call(self, op: str, **words: int) -> np.void:
        call = np.zeros((), layout.CORE_CALL)
        call["op"] = layout.CORE_OP[op]
        for name, value in words.items():
            call[name] = value
        for _ in range(_PATIENCE):
            after = self._loaded.program.test_run(call.tobytes()).ctx
            row: np.void = np.frombuffer(after, layout.CORE_CALL)[0]
            if int(row["result"]) != _BUSY:
                return row
            os.sched_yield()  # another process is just changing it
        raise KmindError("another process does not let go of the core object")

    def _take(self, packed: bytes) -> None:
        words = np.frombuffer(packed, layout.ACTION)[0]
        slot = int(words["instance"])
        # What an earlier instance in the same slot left behind is nobody's.
        if int(words["time_ns"]) < self._since.get(slot, 1 << 64):
            return
        if decode := self._decode.get(slot):
            self._ready.setdefault(slot, []).append(decode(packed))
        elif len(waiting := self._waiting.setdefault(slot, [])) < _MOST_WAITING:
            waiting.append(packed)

    def _class(self, index: int) -> tuple[str, int]:
        words = np.frombuffer(self._map("classes").lookup(_key(index)) or b"", layout.CLASS)[0]
        return words["name"].decode(errors="replace"), int(words["instances"])

    def _count_class(self, name: str, by: int) -> None:
        rows = [self._class(index) for index in range(_CLASSES)]
        index = next((n for n, row in enumerate(rows) if row[0] in (name, "")), None)
        if index is None:
            raise KmindError(f"no room for class {name}: {_CLASSES} are known")
        words = np.zeros((), layout.CLASS)
        words["name"] = text(name, layout.CLASS["name"].itemsize, "class")
        words["instances"] = max(0, rows[index][1] + by)
        self._map("classes").update(_key(index), words.tobytes())


def _key(index: int) -> bytes:
    return index.to_bytes(4, "little")
