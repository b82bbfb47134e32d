# SPDX-License-Identifier: Apache-2.0
"""Recording modules on this kernel: their agents run, their extensions do not.

The agents are in mode observe, and this process stands in for each extension. A sweep
sets a knob to one value after another, in random order, through policy and journal as
any change, so that windows under each value are on record; it is put back at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kmind.agent.core.core import Core
from kmind.agent.kernel.agent import BpfAgent
from kmind.agent.types import Mode
from kmind.errors import KmindError, UsageError
from kmind.extension import Module, Value, find_module, parse_parameters
from kmind.guard import Actuator, Gate, Journal, Policy
from kmind.knobs import Target, get_knob
from kmind.learn._part import CLOSED
from kmind.learn.meta import Stream
from kmind.learn.recorded_instance import RecordedInstance
from kmind.learn.tap import Tap
from kmind.learn.writer import Output, Writer, open_output
from kmind.queue import Endpoint
from kmind.runtime.holds.grants import grants_for
from kmind.runtime.instance.agent_factory import WINDOW_PARAMETER, bind, make_bpf_agent, need_root
from kmind.runtime.instance.hook_gating import HookGating
from kmind.util.names import file_name

__all__ = ["HOOKS", "Plan", "Recorder", "Sweep", "plan_recording"]

HOOKS = "hooks"
"""Another name for the module that records each request of a disk."""

_HOOKS_MODULE = "blockio"
_DEADLINE_S = 10.0
_TURN_S = 0.02
_HOT_TURN_S = 0.002
_SLOTS = 1 << 15  # records of each CPU's ring: 1 MiB, for the times that we do not get the CPU
_HOT = 1 / 64  # of a ring, found full: read again sooner
_HOOKS_S = 0.5


@dataclass(frozen=True)
class Sweep:
    """Values that a knob takes by turns, each for ``seconds``, in an order drawn from ``seed``."""

    knob: str
    values: tuple[int | str, ...]
    seconds: float = 2.0
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """Plan of a recording: modules with targets and parameters, bounds, tags, sweep."""

    instances: tuple[tuple[Module, Target, Mapping[str, Value]], ...]
    max_bytes: int
    streams: tuple[Stream, ...] = ("windows", "records", "tables")
    tags: Mapping[str, str] = field(default_factory=dict)
    sweep: Sweep | None = None


def plan_recording(
    words: Sequence[str],
    *,
    max_mib: int,
    stream: Stream | None = None,
    tags: Sequence[str] = (),
    sweep: str | None = None,
    sweep_s: float = 2.0,
    seed: int = 0,
) -> Plan:
    """From words of the command line: MODULE@TARGET or MODULE, each with its NAME=VALUE after it.

    Raises UsageError for what does not fit.
    """
    groups: list[tuple[str, list[str]]] = []
    for word in words:
        if "=" not in word:
            groups.append((word, []))
        elif groups:
            groups[-1][1].append(word)
        else:
            raise UsageError(f"{word!r} comes before any module", hint="name the module first")
    if not groups:
        raise UsageError("no module is named", hint="kmind record readahead@vda -o DIR")
    instances = []
    for name, parameters in groups:
        module_name, _, target_name = name.partition("@")
        if module_name == HOOKS:
            module_name = _HOOKS_MODULE
        if not target_name:
            _need_no_target(name.partition("@")[0], module_name)
        module, target = bind(module_name, target_name or "system")
        instances.append((module, target, parse_parameters(module.manifest, parameters)))
    names = [f"{module.manifest.name}@{target.name}" for module, target, _ in instances]
    if len(set(names)) < len(names):
        raise UsageError("an instance is named twice", hint="an instance can be recorded once")
    return Plan(
        tuple(instances),
        max_mib << 20,
        (stream,) if stream else ("windows", "records", "tables"),
        dict(_pair(tag) for tag in tags),
        _parse_sweep(sweep, sweep_s, seed, instances) if sweep else None,
    )


def _need_no_target(name: str, module_name: str) -> None:
    kind = find_module(module_name).manifest.target.kind
    if kind in ("block", "cgroup"):
        example = "vda" if kind == "block" else "cgroup:/system.slice"
        raise UsageError(
            f"{name} needs a {kind} target to record",
            hint=f"name it after an @: kmind record {name}@{example} -o DIR",
        )


def _pair(tag: str) -> tuple[str, str]:
    name, equals, value = tag.partition("=")
    if not (name and equals):
        raise UsageError(f"{tag!r} is not a tag", hint="tags are NAME=VALUE")
    return name, value


def _parse_sweep(
    text: str,
    seconds: float,
    seed: int,
    instances: Sequence[tuple[Module, Target, Mapping[str, Value]]],
) -> Sweep:
    name, equals, values = text.partition("=")
    if not equals:
        raise UsageError(f"{text!r} is not a sweep", hint="a sweep is KNOB=VALUE,VALUE,...")
    knob = get_knob(name)
    if not any(use.name == knob.name for m, _, _ in instances for use in m.manifest.knobs):
        raise UsageError(f"no module that is recorded moves {knob.name}")
    try:
        parsed = tuple(knob.parse(value) for value in values.split(","))
    except (ValueError, KmindError) as error:
        raise UsageError(f"sweep of {knob.name}: {error}") from None
    if len(set(parsed)) < 2:
        raise UsageError(f"a sweep of {knob.name} needs two values or more")
    return Sweep(knob.name, parsed, seconds, seed)


class Recorder:
    """Records a plan. A context manager; ``run`` may be called once. Needs root."""

    def __init__(self, plan: Plan, output: Path, *, policy: Policy | None = None) -> None:
        need_root()
        self.plan = plan
        self.seconds = 0.0
        self.taps: list[Tap] = []
        self._policy = policy or Policy.load()
        self._open = ExitStack()
        self._watches: list[HookGating] = []
        self._agents: list[BpfAgent] = []
        try:
            self._prepare(output)
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _prepare(self, path: Path) -> None:
        plan = self.plan
        count = sum(_count_streams(plan, module) for module, _, _ in plan.instances)
        if not count:
            raise UsageError(
                "no module of these has a table", hint="kmind info MODULE shows which have"
            )
        if path.suffix == CLOSED and count > 1:
            raise UsageError(
                "a single file holds one stream of one module",
                hint="give a folder, or say --stream windows, records or tables",
            )
        output = open_output(path)
        core = self._open.enter_context(Core.private())
        if plan.sweep:
            journal = self._open.enter_context(Journal())
            gate = self._open.enter_context(Gate.open(core.approved_fd))
            self._actuator = Actuator(journal, self._policy, gate=gate)
        self._writer = Writer(output, plan.max_bytes, count)
        self._open.callback(_remove_empty, output)
        for module, target, params in plan.instances:
            self._add(core, module, target, params)

    def _add(self, core: Core, module: Module, target: Target, params: Mapping[str, Value]) -> None:
        manifest = module.manifest
        name = f"{manifest.name}@{target.name}"
        slot = core.register(file_name(name), manifest.name, manifest.class_)
        agent = make_bpf_agent(
            module,
            target,
            params,
            deadline_s=_DEADLINE_S,
            core=core,
            slot=slot,
            sq_slots=_SLOTS,
        )
        self._open.callback(agent.close)
        agent.set_mode(Mode.OBSERVE)
        endpoint = Endpoint(agent.arena, _NoBell())
        granted, _ = grants_for(module, target, self._policy, params)
        sweep = self.plan.sweep
        recorded = RecordedInstance(
            module,
            target,
            params,
            agent,
            granted,
            float(params.get(WINDOW_PARAMETER, 100)) / 1000,
            tags=self.plan.tags,
            sweep={sweep.knob: sweep.values} if sweep else {},
        )
        self.taps.append(Tap(recorded, endpoint, self._writer, streams=self.plan.streams))
        self._watches.append(HookGating(manifest, agent))
        self._agents.append(agent)

    def run(
        self,
        duration_s: float | None,
        stop: Callable[[], bool] = lambda: False,
        tell: Callable[[Recorder], None] = lambda recorder: None,
    ) -> str:
        """Record until the time is up, ``stop`` says so, or the bound is reached; why it ended.

        ``tell`` is called once a second. Raises RecordingError if the disk is full or fails;
        whatever happens, what was swept is put back.
        """
        try:
            for agent in self._agents:
                agent.start()
            return self._loop(duration_s, stop, tell)
        finally:
            with ExitStack() as ends:
                ends.callback(self._writer.close)
                if self.plan.sweep:
                    ends.callback(self._actuator.undo_all)
                for tap in self.taps:
                    tap.drain()
                    tap.flush()

    def _loop(
        self, duration_s: float | None, stop: Callable[[], bool], tell: Callable[[Recorder], None]
    ) -> str:
        begin = time.monotonic()
        told = hooked = begin
        turns = self._turns()
        switch_at = begin if self.plan.sweep else float("inf")
        while True:
            now = time.monotonic()
            self.seconds = now - begin
            fullest = max(tap.drain() for tap in self.taps)
            self._writer.check()
            if stop():
                return "interrupted"
            if duration_s is not None and self.seconds >= duration_s:
                return "the duration is over"
            if self._writer.full:
                return "the size limit is reached"
            if now >= switch_at:
                self._set(next(turns))
                switch_at = time.monotonic() + (self.plan.sweep.seconds if self.plan.sweep else 0)
            if now >= hooked:
                hooked = now + _HOOKS_S
                for watch in self._watches:
                    watch.poll(now)
            if now >= told:
                told = now + 1
                tell(self)
            time.sleep(_HOT_TURN_S if fullest > _HOT else _TURN_S)

    def _turns(self) -> Iterator[int | str]:
        sweep = self.plan.sweep
        assert sweep is not None
        rng = np.random.default_rng(sweep.seed)
        while True:
            for index in rng.permutation(len(sweep.values)):
                yield sweep.values[index]

    def _set(self, value: int | str) -> None:
        sweep = self.plan.sweep
        assert sweep is not None
        knob = get_knob(sweep.knob)
        for (module, target, _), tap in zip(self.plan.instances, self.taps, strict=True):
            if not any(use.name == knob.name for use in module.manifest.knobs):
                continue
            tap.flush()
            if knob.read(target) != value:
                self._actuator.apply(
                    knob,
                    target,
                    value,
                    who=f"record:{tap.name}",
                    why="a sweep of kmind record",
                    by_admin=True,
                )
            tap.look()


def _count_streams(plan: Plan, module: Module) -> int:
    # Each table is a stream of its own.
    return sum(len(module.manifest.tables) if s == "tables" else 1 for s in plan.streams)


class _NoBell:
    # Nobody sleeps on it: the rings are read by the clock.

    def wait(self, timeout_s: float) -> bool:
        return False


def _remove_empty(output: Output) -> None:
    # A recording that never began leaves no folder behind.
    with suppress(OSError):
        output.folder.rmdir()
