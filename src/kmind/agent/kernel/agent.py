# SPDX-License-Identifier: Apache-2.0
"""The agent in the running kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, Self, Unpack

import numpy as np

from kmind.abi import layout
from kmind.agent.codec import decode_action
from kmind.agent.core.codec import counters
from kmind.agent.core.core import Core
from kmind.agent.kernel import upgrade
from kmind.agent.kernel.admission import KernelAdmission
from kmind.agent.kernel.generation import Generation
from kmind.agent.kernel.hooks import KernelHooks
from kmind.agent.kernel.models import KernelModels
from kmind.agent.kernel.own_parts import OwnParts
from kmind.agent.kernel.shared_memory import choose_shape, plan_arena, shape_of
from kmind.agent.kernel.spec import Place, Settings, Spec, free_address, possible_cpus
from kmind.agent.kernel.tables import table_maps
from kmind.agent.types import Action, Cause, Kind, Mode
from kmind.bpf import Arena, RingBuffer, map_arena
from kmind.errors import BpfError, KmindError
from kmind.queue import Geometry
from kmind.util.steps import Step, run_steps

__all__ = ["BpfAgent"]

_PAGE = 4096


class BpfAgent:
    """One loaded agent object with its arena; see `Agent` for what each call does.

    ``own`` are the programs and maps that the module's C declares for itself.
    ``path`` is the module's compiled object, ``devices`` the dev_t of the target
    and its partitions (at most 8), ``hooks`` maps each program to the tracepoint
    that it needs, ``alternatives`` names the programs that do a hook's work where the
    kernel cannot run its own, ``optional`` names hooks that may be missing, ``deferred``
    those that ``start`` leaves for ``watch`` to attach, ``parameters`` sets the
    object's ``param_*`` constants, ``model`` says how it decides by models, if it
    does, and ``tables`` those that the manifest declares. With a ``core`` it takes part there under
    ``slot``, which ``core.register`` gave; without, it knows of no other instance.

    Raises LoadError when the verifier refuses it, NotSupportedError when the
    kernel lacks a hook that is not optional.
    """

    backend: Literal["bpf", "sim"] = "bpf"

    def __init__(
        self,
        path: Path,
        *,
        deferred: Iterable[str] = (),
        sq_slots: int = 8192,
        core: Core | None = None,
        slot: int = 0,
        generation: int = 1,
        **settings: Unpack[Settings],
    ) -> None:
        if (core is None) != (slot == 0):
            raise KmindError("an agent has a core and a slot in it, or neither")
        spec = Spec.of(path, settings)
        shape = choose_shape()
        geometry = plan_arena(shape, possible_cpus(), sq_slots)
        place = Place(free_address(slot), geometry, slot, shape)
        first = Generation.load(spec, place, generation, core=core)
        self._take_charge(first, place, frozenset(deferred), core)
        self.geometry.write_header(self.arena)

    @classmethod
    def adopt(
        cls,
        folder: Path,
        *,
        core: Core,
        slot: int,
        hooks: Mapping[str, str] | None = None,
        alternatives: Mapping[str, Sequence[str]] | None = None,
        deferred: Iterable[str] = (),
    ) -> Self:
        """Take over an agent by its pins, while it works.

        ``hooks``, ``alternatives`` and ``deferred`` are as they were given to the one that
        loaded it. Raises BpfError if its pins are not complete.
        """
        active = upgrade.find_active(folder, dict(hooks or {}), alternatives or {})
        try:
            head = active.read_head()
            geometry = Geometry(*(int(word) for word in head["geometry"].item()))
            agent = cls.__new__(cls)
            place = Place(int(head["base"]), geometry, slot, shape_of(active.maps["km_arena"]))
            agent._take_charge(active, place, frozenset(deferred), core)
        except BaseException:
            active.close()
            raise
        try:
            agent._go_on(folder, running=bool(head["running"]))
        except BaseException:
            agent.release()
            raise
        return agent

    def _take_charge(
        self, generation: Generation, place: Place, deferred: frozenset[str], core: Core | None
    ) -> None:
        self._place = place
        self._deferred = deferred
        self._core = core
        self._actions: list[Action] = []
        self._ring: RingBuffer | None = None
        self._arena: Arena | None = None
        self._folder: Path | None = None
        self._running = False
        self._closed = False
        self.geometry = place.geometry
        self.arena_size = place.geometry.size
        self.arena_address = place.address
        self._use(generation)
        try:
            self._arena = map_arena(self.arena_fd, place.address, self.arena_size // _PAGE)
            if core is None:
                self._ring = RingBuffer(generation.maps["km_actions"].fd, self._receive)
                self.action_fd = self._ring.fd
            else:
                core.actions.attach(place.slot, self._decode)
                self.action_fd = core.actions.fd
        except BaseException:
            self.release()
            raise

    def _use(self, generation: Generation) -> None:
        self._generation = generation
        self.arena_fd = generation.maps["km_arena"].fd
        self.doorbell_fd = generation.maps["km_doorbell"].fd
        self.admission = KernelAdmission(generation, self._core, self._place.slot)
        self.hooks = KernelHooks(generation)
        self.models = KernelModels(generation)
        self.own = OwnParts(generation)

    def _go_on(self, folder: Path, *, running: bool) -> None:
        # The last owner may have ended in the middle of an upgrade.
        generation = self._generation
        self._folder = folder
        self._running = running
        generation.show(self._shown(folder))
        if running:
            generation.control("START")
            for name in generation.hooks.keys() - generation.attached().keys():
                if generation.choice.hook_of(name) not in self._deferred:
                    generation.attach(name)

    @property
    def arena(self) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        """The arena as its owner maps it: bytes of shape ``(arena_size,)``."""
        if self._arena is None:
            raise BpfError("the agent is closed")
        return self._arena.buffer

    @property
    def table_fds(self) -> Mapping[str, int]:
        """Its tables by name: descriptors to map by."""
        return {name: rows.fd for name, rows in table_maps(self._generation.maps).items()}

    @property
    def generation(self) -> int:
        """Number of the programs that work: one more after each `upgrade`."""
        return self._generation.number

    def start(self) -> None:
        """Attach the hooks and arm the tick."""
        self._generation.control("START")
        self._running = True
        for name in self._generation.hooks:
            if self._generation.choice.hook_of(name) not in self._deferred:
                self._generation.attach(name)

    # Outliving this process

    def pin(self, folder: Path) -> None:
        """Pin it below ``folder``, from where `adopt` takes it: it outlives this process.

        ``folder`` is ``ROOT/agents/NAME`` of the core. What it prints of itself is
        pinned at ``ROOT/instances/NAME``.
        """
        if self._core is None or self._core.root is None:
            raise KmindError("only an agent of a pinned core can be pinned")
        pin = partial(self._generation.pin, folder, self._core.map_fd("instances"))
        show = partial(self._generation.show, self._shown(folder))
        run_steps(
            [
                Step(
                    "making its folder", partial(folder.mkdir, mode=0o700), partial(_gone, folder)
                ),
                Step("pinning", pin, self._generation.unpin),
                Step("showing its account", show),
            ]
        )
        self._folder = folder

    def unpin(self) -> None:
        """Remove the pins: it ends with this process again, which has to be its loader."""
        if self._folder is None:
            return
        folder, self._folder = self._folder, None
        self._shown(folder).unlink(missing_ok=True)
        self._generation.unpin()
        folder.rmdir()

    def release(self) -> None:
        """Let go of it without stopping it; what is pinned works on. Safe to repeat."""
        if self._closed:
            return
        self._closed = True
        if self._core is not None:
            self._core.actions.detach(self._place.slot)
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        if self._arena is not None:
            self._arena.close()
            self._arena = None
        self.hooks.close()
        self._generation.close()

    def upgrade(
        self, path: Path, *, deferred: Iterable[str] = (), **settings: Unpack[Settings]
    ) -> None:
        """Put the programs of another object in the place of these, while they work.

        Each event is taken by one of them: no record is lost or counted twice. Queues,
        grants, mode and accounts go on; what the module's C keeps for itself begins anew.
        Raises as making an agent does, and NotSupportedError if the library that the
        object was built with keeps another state; then all is as before. UndoError: it is not.
        """
        old, left_out = self._generation, frozenset(deferred)
        spec = Spec.of(path, settings)
        new = Generation.load(spec, self._place, old.number + 1, core=self._core, before=old)
        try:
            run_steps(self._upgrade_steps(old, new, left_out))
        except BaseException:
            new.close()
            raise
        self._deferred = left_out
        self._use(new)
        old.retire()

    def _upgrade_steps(
        self, old: Generation, new: Generation, deferred: frozenset[str]
    ) -> list[Step]:
        steps = upgrade.hand_over_steps(old, new, deferred, running=self._running)
        folder, core = self._folder, self._core
        if folder is None or core is None:
            return steps
        pin = partial(new.pin, folder, core.map_fd("instances"))
        show = partial(new.show, self._shown(folder))
        # The account is shown by one or the other: nothing after it can fail.
        return [Step("pinning", pin, new.unpin), *steps, Step("showing its account", show)]

    def close(self) -> None:
        """Detach and free everything, pins too."""
        if self._closed:
            return
        if self._running:
            self._generation.control("STOP")
            self._running = False
        self.unpin()
        self.release()

    # From the owner

    @property
    def mode(self) -> int:
        """The mode that it is in, by the kernel's own word; 0: none was set yet."""
        if self._core is not None:
            return self._core.mode(self._place.slot)
        return self._generation.control("LOOK")

    @property
    def cause(self) -> Cause:
        """The reason for its last change of mode."""
        return Cause(int(self._generation.call("LOOK")["kind"]))

    def set_mode(self, mode: Mode) -> None:
        """Move to a mode."""
        self._generation.control("MODE", value=int(mode))

    def notify(self, kind: Kind, rec_id: int, value: int) -> None:
        """Tell the extension what became of a recommendation.

        A full ring drops it like any other record, and counts it.
        """
        self._generation.control("NOTICE", kind=int(kind), id=rec_id, value=value)

    def poll(self, timeout_s: float) -> list[Action]:
        """Wait for actions at most that long."""
        if self._closed:
            raise BpfError("the agent is closed")
        if self._core is not None:
            return self._core.actions.receive(self._place.slot, timeout_s)
        assert self._ring is not None
        if not self._ring.consume():  # hooks do not wake: the tick does, a little later
            self._ring.poll(max(0, int(timeout_s * 1000)))
        taken, self._actions = self._actions, []
        return taken

    # To the owner

    def feature(self, column: int) -> int:
        """A counter's total since the agent was loaded."""
        return self._generation.control("FEATURE", knob=column)

    def account(self) -> Mapping[str, int]:
        """Counters kept by the agent."""
        empty = bytes(layout.ACCOUNT.itemsize)
        packed = self._generation.programs["km_account"].test_run(empty).ctx
        return counters(np.frombuffer(packed, layout.ACCOUNT)[0])

    def _decode(self, packed: bytes) -> Action:
        return decode_action(packed, self.arena, self.geometry)

    def _receive(self, packed: bytes) -> None:
        self._actions.append(self._decode(packed))

    @staticmethod
    def _shown(folder: Path) -> Path:
        return folder.parent.parent / "instances" / folder.name


def _gone(folder: Path) -> None:
    if folder.is_dir():
        folder.rmdir()
