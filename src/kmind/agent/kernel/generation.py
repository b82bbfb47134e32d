# SPDX-License-Identifier: Apache-2.0
"""One generation of an agent's programs: loaded by this process, or found by its pins.

All generations of an agent share its arena, doorbell, grants and state. Each keeps all
of its pins in a folder of its own, ``AGENT/N`` with ``maps``, ``programs``, ``links``.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np

from kmind.abi import layout
from kmind.agent.core.core import Core
from kmind.agent.kernel.choice import (
    FUNCTION_SECTIONS,
    Choice,
    choose_among_pins,
    choose_programs,
)
from kmind.agent.kernel.own_code import refuse_shared_maps
from kmind.agent.kernel.shared_memory import object_of, place_arena
from kmind.agent.kernel.spec import Place, Spec
from kmind.agent.kernel.tables import inherit_tables, size_tables, write_heads
from kmind.agent.types import ModelUse
from kmind.bpf import (
    BpfObject,
    Link,
    Map,
    PinnedProgram,
    Program,
    let_go,
    obj_pin,
    open_map,
    open_program,
)
from kmind.errors import BpfError, NotSupportedError

__all__ = ["Generation", "read_state"]

_STATE = ".data.kmind"
_INHERITED = ("km_arena", "km_doorbell", "km_grants", _STATE)
_NEEDED = frozenset(
    {"km_arena", "km_doorbell", "km_grants", "km_timers", "state", "km_control", "km_account"}
)
_SHARED = ("km_instances", "km_leases", "km_approved", "km_actions", "km_owner")  # the core's
_HOOK_SECTIONS = (
    "tp_btf/", "raw_tp", "tp/", "tracepoint/", "perf_event", *FUNCTION_SECTIONS,
)  # fmt: skip
_PATIENCE = 1000


class Generation:
    """Programs and maps by their names in C; the state's map is called ``state`` too.

    ``choice`` says which program does the work of each hook, and which are not there.
    """

    def __init__(
        self,
        number: int,
        maps: Mapping[str, Map],
        programs: Mapping[str, Program | PinnedProgram],
        object_: BpfObject | None = None,
        choice: Choice | None = None,
    ) -> None:
        self.number = number
        self.maps = maps
        self.programs = programs
        self.choice = choice or Choice()
        self.folder: Path | None = None
        #: The programs that can be attached: name to section, or to tracepoint.
        self.hooks: Mapping[str, str] = {}
        self._object = object_
        self._links: dict[str, Link] = {}
        self._attached: set[str] = set()  # by this process or, where it is pinned, another

    @classmethod
    def load(
        cls,
        spec: Spec,
        place: Place,
        number: int,
        *,
        core: Core | None = None,
        before: Generation | None = None,
    ) -> Self:
        """Load the object into the kernel; it takes over what the one ``before`` has."""
        path = object_of(spec.path, place.shape)
        refuse_shared_maps(path)
        refused: dict[str, str] = {}
        while True:
            loading = BpfObject(path)
            try:
                return cls._load(loading, spec, place, number, core, before, refused)
            except BpfError as error:
                # The kernel itself says last what it can run: then the next alternative's turn.
                program = loading.refused_program
                if program in refused or program not in _replaceable(spec):
                    raise
                refused[program] = error.args[0]

    @classmethod
    def _load(
        cls,
        loading: BpfObject,
        spec: Spec,
        place: Place,
        number: int,
        core: Core | None,
        before: Generation | None,
        refused: Mapping[str, str],
    ) -> Self:
        try:
            choice = choose_programs(loading, spec, refused)
            size_tables(loading, spec.tables)
            _inherit(loading, core, before)
            if before is not None:
                inherit_tables(loading, before.maps, spec.tables)
            if before is None:
                place_arena(loading, place)
            loading.set_rodata(_constants(spec, place, number))
            if spec.model is not None:
                loading.set_rodata(_model_constants(spec.model))
            loading.load()
            maps = {**loading.maps, "state": loading.maps[_STATE]}
            generation = cls(number, maps, loading.programs, loading, choice)
            generation.hooks = {
                name: program.section
                for name, program in loading.programs.items()
                if program.section.startswith(_HOOK_SECTIONS) and name not in choice.left_out
            }
            write_heads(maps, spec.tables)
            if before is None:
                generation._write_head(place)
        except BaseException:
            loading.close()
            raise
        return generation

    @classmethod
    def open(
        cls, folder: Path, hooks: Mapping[str, str], alternatives: Mapping[str, Sequence[str]]
    ) -> Self:
        """The one that is pinned in ``folder``; ``hooks``, ``alternatives`` as in its `Spec`."""
        maps = {path.name: open_map(path) for path in (folder / "maps").iterdir()}
        programs = {path.name: open_program(path) for path in (folder / "programs").iterdir()}
        choice = choose_among_pins(programs, hooks, alternatives)
        generation = cls(int(folder.name), maps, programs, None, choice)
        if lacking := _NEEDED - maps.keys() - programs.keys():
            generation.close()
            raise BpfError(f"no pin of {', '.join(sorted(lacking))}")
        generation.folder = folder
        generation.hooks = {name: hooks[hook] for hook, name in choice.chosen.items()}
        generation._attached = {
            path.name for path in (folder / "links").iterdir()
        } & programs.keys()
        return generation

    def attached(self) -> dict[str, int]:
        """The hooks that are attached: name to program id."""
        return {name: self.programs[name].id for name in sorted(self._attached)}

    def is_attached(self, name: str) -> bool:
        """True if a hook is attached."""
        return name in self._attached

    def attach(self, name: str) -> None:
        """Attach a hook where its section says; where there are pins, that is one too."""
        program = self.programs[name]
        if isinstance(program, PinnedProgram):
            assert self.folder is not None
            program.attach_pinned(self.folder / "links" / name)
            self._attached.add(name)
            return
        self._links[name] = link = program.attach()
        self._attached.add(name)
        if self.folder is not None:
            link.pin(self.folder / "links" / name)

    def detach(self, name: str) -> None:
        """Detach a hook."""
        if self.folder is not None:
            (self.folder / "links" / name).unlink(missing_ok=True)
        if link := self._links.pop(name, None):
            link.close()
        self._attached.discard(name)

    def pin(self, agent: Path, instances_fd: int) -> None:
        """Pin all of it below the agent's folder, so that it works on without this process.

        ``show`` among it is what prints its account, an iterator over the core's instances.
        """
        self.folder = folder = agent / str(self.number)
        for name in ("maps", "programs", "links"):
            (folder / name).mkdir(mode=0o700, parents=True)
        for name, program in self.programs.items():
            if name not in self.choice.left_out:
                obj_pin(program.fd, folder / "programs" / name)
        for name, map_ in self.maps.items():
            # bpffs takes no dots; what has one is the compiler's, and the programs hold it.
            if "." not in name and name not in _SHARED:
                map_.pin(folder / "maps" / name)
        for name, link in self._links.items():
            link.pin(folder / "links" / name)
        show = self.programs["km_show"]
        assert isinstance(show, Program)
        with show.attach_iter(instances_fd) as link:
            link.pin(folder / "show")

    def show(self, path: Path) -> None:
        """Have its account read at ``path``, in the place of an earlier one's."""
        if self.folder is not None and (self.folder / "show").exists():
            (self.folder / "show").replace(path)

    def unpin(self) -> None:
        """Remove the pins. What only they held is gone."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None
            self._attached &= self._links.keys()

    def retire(self) -> None:
        """Detach its hooks, remove its pins and let go of it, as far as that can be done.

        For a generation that no longer works: the next owner removes any remains.
        """
        for name in sorted(self._attached):
            with suppress(OSError, BpfError):
                self.detach(name)
        self.unpin()
        self.close()

    def close(self) -> None:
        """Let go of it; what is pinned stays. Safe to repeat."""
        self._links.clear()
        let_go(self._object, self.maps.values(), self.programs.values())

    def control(self, op: str, **words: int | np.void) -> int:
        """Call the agent's control program; its value. BpfError if it refuses."""
        return int(self.call(op, **words)["value"])

    def call(self, op: str, **words: int | np.void) -> np.void:
        """The same; all that it answered, as ``layout.CONTROL``."""
        args = np.zeros((), layout.CONTROL)
        args["op"] = layout.CONTROL_OP[op]
        for name, value in words.items():
            args[name] = value
        for _ in range(_PATIENCE):
            ran = self.programs["km_control"].test_run(args.tobytes())
            after: np.void = np.frombuffer(ran.ctx, layout.CONTROL)[0]
            result = int(after["result"])
            if result != -errno.EBUSY:  # else a recommendation is judged just now
                break
        if op == "GRANT" and result == -errno.ENOSPC:
            size = layout.LIMIT["GRANTS"]
            raise BpfError(
                f"no room for one more grant among the {size} places of the agent",
                hint="let the module ask for fewer knobs, or load it for fewer targets",
            )
        if result < 0 and op not in ("NOTICE", "CURRENT"):
            cause = os.strerror(-result) if -result in errno.errorcode else str(result)
            raise BpfError(f"the agent refused {op.lower()}: {cause}")
        return after

    def read_head(self) -> np.void:
        """``struct kmind_state``: what the generations of an agent share."""
        return read_state(self.maps["state"])

    def _write_head(self, place: Place) -> None:
        # Nothing runs yet: the state can be written as a whole.
        packed = bytearray(self.maps["state"].lookup(bytes(4)) or b"")
        head = np.frombuffer(packed, layout.STATE, 1)[0].copy()
        head["active"], head["base"] = self.number, place.address
        head["geometry"] = np.frombuffer(place.geometry.pack(), layout.GEOMETRY)[0]
        packed[: layout.STATE.itemsize] = head.tobytes()
        self.maps["state"].update(bytes(4), bytes(packed))


def read_state(state: Map) -> np.void:
    """``struct kmind_state`` at the start of that map. BpfError if it is none."""
    packed = state.lookup(bytes(4)) or b""
    if len(packed) < layout.STATE.itemsize:
        raise BpfError(f"the state of the agent has {len(packed)} bytes")
    head: np.void = np.frombuffer(packed[: layout.STATE.itemsize], layout.STATE)[0]
    return head


def _replaceable(spec: Spec) -> set[str]:
    # Programs that the agent can do without, or have another for.
    names = {name for hook, others in spec.alternatives.items() for name in (hook, *others)}
    return names | spec.optional


def _inherit(loading: BpfObject, core: Core | None, before: Generation | None) -> None:
    if core is not None:
        core.share(loading)
    if before is None:
        return
    size, kept = loading.maps[_STATE].value_size, before.maps["state"].value_size
    if size != kept:
        raise NotSupportedError(
            f"{loading.path.name} cannot take over: its state has {size} bytes, the agent's {kept}",
            hint="unload the instance and load it again",
        )
    for name in _INHERITED if core is not None else (*_INHERITED, *_SHARED):
        loading.maps[name].reuse_fd(before.maps["state" if name == _STATE else name].fd)


def _model_constants(model: ModelUse) -> dict[str, int | bytes | list[int]]:
    return {"km_model_schema": model.schema, "km_model_budget_ns": model.budget_ns}


def _constants(spec: Spec, place: Place, number: int) -> dict[str, int | bytes | list[int]]:
    devices = list(spec.devices)[:8]
    return {
        "km_geometry": place.geometry.pack(),
        "km_base": place.address,
        "km_slot": place.slot,
        "km_generation": number,
        "km_tick_ns": int(spec.tick_s * 1e9),
        "km_window_ns": int(spec.window_s * 1e9),
        "km_deadline_ns": int(spec.deadline_s * 1e9),
        "km_devices": devices + [0] * (8 - len(devices)),
        "km_nr_devices": len(devices),
        **{f"param_{name}": value for name, value in spec.parameters.items()},
    }
