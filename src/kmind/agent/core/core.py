# SPDX-License-Identifier: Apache-2.0
"""The core object: what all agents share, pinned so that it outlives the daemon.

It holds the instances with their accounts, the leases, the ring in which approved
recommendations reach their owner, what the gate lets through, and the classes. Its one
owner (the daemon, or ``kmind run``) is trusted and single-threaded. ``stats`` below its
root, and ``instances/NAME`` for each pinned agent, can be read with ``cat``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np

from kmind.abi import layout
from kmind.agent.core import pins
from kmind.agent.core.actions import ActionRing
from kmind.agent.core.approvals import Approvals
from kmind.agent.core.codec import CoreInstance, Fill, text
from kmind.agent.core.leases import Leases
from kmind.bpf import BpfObject, Map, read_iter
from kmind.errors import KmindError
from kmind.paths import PINS
from kmind.util.names import file_name

__all__ = ["Core"]

_INSTANCES = layout.LIMIT["INSTANCES"]
_CLASSES = layout.LIMIT["CLASSES"]
_ZERO = bytes(4)
_MODE_AT = layout.INSTANCE.fields["mode"][1]  # type: ignore[index]


class Core:
    """The maps of one core object. Made by `open` or `private`.

    ``leases`` says who may set which knob, ``approvals`` what the gate lets through;
    ``actions`` is the ring in which agents tell the owner. The instances are here.

    Slots are numbers from 1 to 63, one for each instance. Errors are BpfError,
    PrivilegeError, NotSupportedError, and KmindError for what makes no sense.
    """

    def __init__(self, loaded: pins.Loaded, root: Path | None) -> None:
        self._loaded = loaded
        self.root = root
        self.leases = Leases(loaded)
        self.approvals = Approvals(loaded)
        since = {instance.slot: instance.started_ns for instance in self.instances()}
        self.actions = ActionRing(self._map("actions").fd, since)

    @classmethod
    def open(cls, root: Path = PINS, *, mount: bool = False) -> Self:
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
    def approved_fd(self) -> int:
        """Descriptor of the map that the gate reads: grant key to ``struct kmind_approved``."""
        return self._map("approved").fd

    def map_fd(self, name: str) -> int:
        """Descriptor of a map: instances, leases, approved, actions, owner, classes."""
        return self._map(name).fd

    def folder(self, name: str) -> Path:
        """Return the folder of pins of an instance's agent."""
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
        taken = {instance.slot: instance for instance in self.instances()}
        if any(instance.name == name for instance in taken.values()):
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
        self.actions.begin(slot, int(words["started_ns"]))
        self.set_process(slot, pid, uid)
        return slot

    def unregister(self, slot: int) -> None:
        """Remove an instance and its leases; nothing if it is not there. Close its agent first."""
        self.actions.end(slot)
        instance = self.instance(slot)
        if instance is None:
            return
        self._loaded.call("LEAVE_ALL", slot=slot)
        for key, approved in self.approvals.all().items():
            if approved.instance == slot:
                self.approvals.disapprove(*key, slot)
        self._map("instances").update(_key(slot), bytes(layout.INSTANCE.itemsize))
        self._count_class(instance.class_, -1)

    def set_process(self, slot: int, pid: int, uid: int) -> None:
        """Say which process is an instance's extension now."""
        self._loaded.call("PROCESS", slot=slot, pid=pid, uid=uid)

    def instance(self, slot: int) -> CoreInstance | None:
        """One instance with its account; None if the slot is free."""
        packed = self._map("instances").lookup(_key(slot))
        words = np.frombuffer(packed or b"", layout.INSTANCE)
        return CoreInstance.read(words[0]) if len(words) and words[0]["slot"] else None

    def instances(self) -> list[CoreInstance]:
        """All instances, by slot."""
        instances = (self.instance(slot) for slot in range(1, _INSTANCES))
        return [instance for instance in instances if instance is not None]

    def classes(self) -> Mapping[str, int]:
        """Return each class that was ever used, with its number of instances."""
        rows = (self._class(index) for index in range(_CLASSES))
        return {name: count for name, count in rows if name}

    def fill(self) -> Mapping[str, Fill]:
        """Return the fill levels of the tables that all instances share."""
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

    def free(self, slot: int, knob: int, target: int) -> None:
        """Give back what an instance holds no longer: its lease, and what the gate lets through."""
        self.leases.release(slot, knob, target)
        self.approvals.disapprove(knob, target, slot)

    # The owner

    def beat(self) -> None:
        """Say that the owner lives. Once it did, agents approve nothing 5 s after the last beat."""
        self._map("owner").update(_ZERO, pins.owner_words(time.monotonic_ns()))

    def owner(self) -> tuple[int, float]:
        """Process id of the last owner, and seconds since its last beat (infinite: none)."""
        words = np.frombuffer(self._map("owner").lookup(_ZERO) or b"", layout.OWNER)[0]
        beat = int(words["beat_ns"])
        return int(words["pid"]), (time.monotonic_ns() - beat) / 1e9 if beat else float("inf")

    def stats(self) -> str:
        """Return the text that ``cat ROOT/stats`` shows."""
        return read_iter(self._loaded.stats).decode()

    def close(self) -> None:
        """Let go of it. What is pinned stays. Safe to repeat."""
        self.actions.close()
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
