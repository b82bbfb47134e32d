# SPDX-License-Identifier: Apache-2.0
"""The agent in the running kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from kmind.abi import layout
from kmind.abi.btf import Btf
from kmind.agent._actions import decode_action, pack_grant
from kmind.agent._base import Action, Grant, Kind, Mode
from kmind.bpf import Arena, BpfObject, Link, RingBuffer, map_arena
from kmind.errors import BpfError, NotSupportedError
from kmind.queue import Geometry

__all__ = ["BpfAgent"]

_PAGE = 4096
_SLOT = 1 << 32
# Far from where Linux puts programs, libraries and stacks on x86-64 and arm64;
# 4 GiB apart, since an arena may not cross such a boundary.
_FIRST_ADDRESS = 1 << 44
_OWN_PROGRAMS = ("km_control", "km_account")


def _possible_cpus() -> int:
    """CPUs that may ever run: rings are per CPU, and hooks index by its number."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().rsplit(",", 1)[-1]
    return int(last.rsplit("-", 1)[-1]) + 1


class BpfAgent:
    """One loaded agent object with its arena; see `Agent` for what each call does.

    ``path`` is the module's compiled object, ``devices`` the dev_t of the target
    and its partitions (at most 8), ``hooks`` maps each program to the tracepoint
    that it needs, ``optional`` names programs that may be missing, ``deferred``
    those that ``start`` leaves for ``watch`` to attach, ``parameters`` sets the
    object's ``param_*`` constants.

    Raises LoadError when the verifier refuses it, NotSupportedError when the
    kernel lacks a hook that is not optional.
    """

    backend: Literal["bpf", "sim"] = "bpf"

    def __init__(
        self,
        path: Path,
        *,
        devices: Iterable[int] = (),
        hooks: Mapping[str, str] | None = None,
        optional: Iterable[str] = (),
        deferred: Iterable[str] = (),
        parameters: Mapping[str, int] | None = None,
        tick_s: float = 0.002,
        window_s: float = 0.1,
        deadline_s: float = 1.0,
        sq_slots: int = 8192,
    ) -> None:
        self._actions: list[Action] = []
        self._missing: dict[str, str] = {}
        self._attached: dict[str, int] = {}
        self._deferred = frozenset(deferred)
        self._watching: dict[str, Link] = {}
        self._ring: RingBuffer | None = None
        self._arena: Arena | None = None
        self._running = False
        self.geometry = Geometry.plan(_possible_cpus(), sq_slots)
        self.arena_size = self.geometry.size
        self._object = BpfObject(path)
        try:
            self._choose_hooks(hooks or {}, frozenset(optional))
            self._load(list(devices), parameters or {}, tick_s, window_s, deadline_s)
        except BaseException:
            self.close()
            raise

    def _choose_hooks(self, hooks: Mapping[str, str], optional: frozenset[str]) -> None:
        kernel = Btf.kernel()
        for program, tracepoint in hooks.items():
            if kernel.tracepoint_args(tracepoint) is not None:
                continue
            cause = f"this kernel has no tracepoint {tracepoint}"
            if program not in optional:
                raise NotSupportedError(
                    f"{cause}, which hook {program} needs", hint="see kmind doctor"
                )
            self._object.programs[program].set_autoload(False)
            self._missing[program] = cause

    def _load(
        self,
        devices: list[int],
        parameters: Mapping[str, int],
        tick_s: float,
        window_s: float,
        deadline_s: float,
    ) -> None:
        self.arena_address = _free_address()
        pages = self.arena_size // _PAGE
        self._object.set_arena("km_arena", self.arena_address, pages)
        self._object.set_rodata(
            {
                "km_geometry": self.geometry.pack(),
                "km_base": self.arena_address,
                "km_tick_ns": int(tick_s * 1e9),
                "km_window_ns": int(window_s * 1e9),
                "km_deadline_ns": int(deadline_s * 1e9),
                "km_devices": (devices + [0] * 8)[:8],
                "km_nr_devices": min(len(devices), 8),
                **{f"param_{name}": value for name, value in parameters.items()},
            }
        )
        self._object.load()
        maps = self._object.maps
        self.arena_fd = maps["km_arena"].fd
        self.doorbell_fd = maps["km_doorbell"].fd
        self._arena = map_arena(self.arena_fd, self.arena_address, pages)
        self.geometry.write_header(self._arena.buffer)
        self._ring = RingBuffer(maps["km_actions"].fd, self._take)
        self.action_fd = self._ring.fd

    @property
    def arena(self) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        """The arena as its owner maps it: bytes of shape ``(arena_size,)``."""
        if self._arena is None:
            raise BpfError("the agent is closed")
        return self._arena.buffer

    def start(self) -> None:
        """Attach the hooks and arm the tick."""
        self._control("START")
        self._running = True
        for name, program in self._object.programs.items():
            if name in _OWN_PROGRAMS or name in self._missing or program.section == "syscall":
                continue
            if name in self._deferred:
                continue
            program.attach()
            self._attached[name] = program.id

    def close(self) -> None:
        """Detach and free everything."""
        if self._running:
            self._control("STOP")
            self._running = False
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        if self._arena is not None:
            self._arena.close()
            self._arena = None
        self._object.close()
        self._attached.clear()

    def grant(self, knob: int, target: int, grant: Grant) -> None:
        """Let the instance recommend values for a knob."""
        key = np.array([(knob, target)], layout.GRANT_KEY).tobytes()
        self._object.maps["km_grants"].update(key, pack_grant(grant))

    def set_mode(self, mode: Mode) -> None:
        """Move to a mode."""
        self._control("MODE", value=int(mode))

    def set_model(self, identity: int) -> None:
        """Admit recommendations of one model only."""
        self._control("MODEL", value=identity)

    def set_current(self, knob: int, target: int, value: int) -> None:
        """Say what value a knob has now."""
        self._control("CURRENT", knob=knob, target=target, value=value)

    def notify(self, kind: Kind, rec_id: int, value: int) -> None:
        """Tell the extension what became of a recommendation.

        A full ring drops it like any other record, and counts it.
        """
        self._control("NOTICE", kind=int(kind), id=rec_id, value=value)

    def poll(self, timeout_s: float) -> list[Action]:
        """Wait for actions at most that long."""
        if self._ring is None:
            raise BpfError("the agent is closed")
        self._ring.poll(max(0, int(timeout_s * 1000)))
        taken, self._actions = self._actions, []
        return taken

    def feature(self, column: int) -> int:
        """A counter's total since the agent was loaded."""
        return self._control("FEATURE", knob=column)

    def watch(self, program: str, wanted: bool) -> None:
        """Attach or detach one of the deferred hooks."""
        if program in self._missing or wanted == (program in self._watching):
            return
        if wanted:
            hook = self._object.programs[program]
            self._watching[program] = hook.attach()
            self._attached[program] = hook.id
        else:
            self._watching.pop(program).close()
            del self._attached[program]

    def account(self) -> Mapping[str, int]:
        """Counters kept by the agent."""
        empty = bytes(layout.ACCOUNT.itemsize)
        packed = self._object.programs["km_account"].test_run(empty).ctx
        words = np.frombuffer(packed, layout.ACCOUNT)[0]
        names = layout.ACCOUNT.names or ()
        counters = {name: int(words[name]) for name in names if name != "verdicts"}
        counters |= {
            f"verdict_{name.lower()}": int(words["verdicts"][code])
            for name, code in layout.VERDICT.items()
            if code
        }
        return counters

    def programs(self) -> Mapping[str, int]:
        """The hooks that are attached: name to program id."""
        return dict(self._attached)

    def missing(self) -> Mapping[str, str]:
        """The optional hooks that could not be attached: name to cause."""
        return dict(self._missing)

    def run(self, program: str, ctx: bytes) -> bytes:
        """Run a syscall program of the module's own; its context afterwards."""
        return self._object.programs[program].test_run(ctx).ctx

    def map_fd(self, name: str) -> int:
        """The descriptor of a map of the module's own."""
        return self._object.maps[name].fd

    def _take(self, packed: bytes) -> None:
        self._actions.append(decode_action(packed, self.arena, self.geometry))

    def _control(self, op: str, **words: int) -> int:
        args = np.zeros((), layout.CONTROL)
        args["op"] = layout.CONTROL_OP[op]
        for name, value in words.items():
            args[name] = value
        ran = self._object.programs["km_control"].test_run(args.tobytes())
        after = np.frombuffer(ran.ctx, layout.CONTROL)[0]
        result = int(after["result"])
        if result < 0 and op not in ("NOTICE", "CURRENT"):
            cause = os.strerror(-result) if -result in errno.errorcode else str(result)
            raise BpfError(f"the agent refused {op.lower()}: {cause}")
        return int(after["value"])


def _free_address() -> int:
    """An address where no mapping of this process lies within 4 GiB."""
    taken: set[int] = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(word, 16) for word in line.split(maxsplit=1)[0].split("-"))
        taken.update(range(first // _SLOT, (last - 1) // _SLOT + 1))
    address = _FIRST_ADDRESS
    while address // _SLOT in taken:
        address += _SLOT
    return address
