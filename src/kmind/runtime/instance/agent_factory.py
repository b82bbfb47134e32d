# SPDX-License-Identifier: Apache-2.0
"""Making the agent that an instance needs, in the running kernel."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from kmind.agent.core.core import Core
from kmind.agent.kernel.agent import BpfAgent
from kmind.agent.kernel.shared_memory import object_of
from kmind.agent.kernel.spec import Settings
from kmind.agent.types import ModelUse, Shape
from kmind.bpf.machine import capabilities, sandbox_capabilities, time_namespace
from kmind.errors import KmindError, NotSupportedError, PrivilegeError, UsageError
from kmind.extension import Module, Value, agent_parameters, find_module
from kmind.extension.files import refuse_unplain
from kmind.knobs import Target, parse_target
from kmind.util.descriptors import refuse_where_short

__all__ = [
    "WINDOW_PARAMETER",
    "adopt_bpf_agent",
    "bind",
    "make_bpf_agent",
    "need_root",
    "upgrade_bpf_agent",
]

WINDOW_PARAMETER = "window_ms"
"""A module with a parameter of this name lets it set the length of its windows."""

_WINDOW_MS = 100
# What an instance holds is 20 to 30, more while it is loaded; clients of the API are 128 at most.
_DESCRIPTORS, _SPARE_DESCRIPTORS = 64, 192
_TARGET_HINTS = {
    "block": "name a block device, such as vda",
    "cgroup": "name a cgroup, such as cgroup:/system.slice",
    "system": "the target is: system",
}
_TARGETS = {
    "block": ("a block device", "vda"),
    "cgroup": ("a cgroup", "cgroup:/system.slice"),
    "any": ("a block device, a cgroup, or system", "system"),
}


def bind(module_name: str, target_name: str) -> tuple[Module, Target]:
    """Return module and target by name; UsageError where one is unknown or they do not fit.

    Without a target's name it is the system, where the module works on that.
    """
    try:
        module = find_module(module_name)
    except OSError as error:
        raise UsageError(
            f"module {module_name[:80]!r} cannot be read: {error.strerror}",
            hint="see: kmind modules",
        ) from None
    kind = module.manifest.target.kind
    if not target_name and kind != "system":
        what, example = _TARGETS[kind]
        name = module.manifest.name
        raise UsageError(
            f"module {name} needs a target: {what}",
            hint=f"for example: kmind load {name} {example}",
        )
    target = parse_target(target_name or "system")
    if kind not in ("any", target.kind):
        raise UsageError(
            f"module {module.manifest.name} works on a {kind} target, "
            f"and {target.name} is a {target.kind} one",
            hint=_TARGET_HINTS[kind],
        )
    return module, target


def make_bpf_agent(
    module: Module,
    target: Target,
    params: Mapping[str, Value],
    *,
    deadline_s: float,
    core: Core | None = None,
    slot: int = 0,
    sq_slots: int = 8192,
    constants: Mapping[str, int] | None = None,
) -> BpfAgent:
    """Load the module's agent for a target; nothing is attached yet.

    ``sq_slots`` are the records that each CPU's ring holds, a power of two; ``constants`` are
    those of the agent beside parameters, as a driver's device has them.
    Raises PrivilegeError without root, KmindError where too few open files are allowed,
    NotSupportedError where the kernel lacks what is needed, LoadError where the verifier refuses.
    """
    need_root()
    path = _object_path(module)
    refuse_where_short(_DESCRIPTORS, _SPARE_DESCRIPTORS, f"{module.manifest.name}@{target.name}")
    settings = _made_of(module, target, params, deadline_s, constants)
    return BpfAgent(path, **settings, core=core, slot=slot, sq_slots=sq_slots)


def upgrade_bpf_agent(
    agent: BpfAgent,
    module: Module,
    target: Target,
    params: Mapping[str, Value],
    *,
    deadline_s: float,
    constants: Mapping[str, int] | None = None,
) -> None:
    """Put the module's present object in the place of the one that works.

    Raises as ``make_bpf_agent`` does; then the old one works on.
    """
    agent.upgrade(_object_path(module), **_made_of(module, target, params, deadline_s, constants))


def adopt_bpf_agent(folder: Path, module: Module, *, core: Core, slot: int) -> BpfAgent:
    """Take charge of the agent that is pinned there. Raises BpfError if it is not whole."""
    hooks = module.manifest.hooks
    return BpfAgent.adopt(
        folder,
        core=core,
        slot=slot,
        hooks={hook.program: hook.tracepoint for hook in hooks},
        alternatives=_alternatives(module),
        deferred=[hook.program for hook in hooks if hook.while_],
    )


def need_root(*, extension: bool = False) -> None:
    """Raise unless this process may load agents; with ``extension``, also start extensions.

    PrivilegeError without root or its capabilities, as in a container; NotSupportedError if
    clocks are not the kernel's: holds, leases and signs of life are times that agents compare
    with their own.
    """
    if os.geteuid() != 0:
        raise PrivilegeError(
            "loading an agent into the kernel needs root", hint="run as root: sudo kmind ..."
        )
    capabilities()
    if extension:
        sandbox_capabilities()
    time_namespace()


class _Made(Settings):
    # Arguments of both making an agent and upgrading it.
    deferred: list[str]


def _made_of(
    module: Module,
    target: Target,
    params: Mapping[str, Value],
    deadline_s: float,
    constants: Mapping[str, int] | None = None,
) -> _Made:
    hooks = module.manifest.hooks
    return _Made(
        devices=_devices(target),
        hooks={hook.program: hook.tracepoint for hook in hooks},
        alternatives=_alternatives(module),
        optional=[hook.program for hook in hooks if hook.optional],
        deferred=[hook.program for hook in hooks if hook.while_],
        parameters=agent_parameters(module.manifest, params) | dict(constants or {}),
        window_s=float(params.get(WINDOW_PARAMETER, _WINDOW_MS)) / 1000,
        deadline_s=deadline_s,
        model=_model_use(module),
        tables=[part.shape for part in module.manifest.tables],
    )


def _alternatives(module: Module) -> dict[str, list[str]]:
    return {
        hook.program: [other.program for other in hook.alternatives]
        for hook in module.manifest.hooks
        if hook.alternatives
    }


def _model_use(module: Module) -> ModelUse | None:
    part = module.manifest.model
    if part is None:
        return None
    from kmind.infer.features import Feature, schema_hash  # few modules have a model

    features = [Feature(feature.name, feature.unit) for feature in part.features]
    return ModelUse(schema_hash(features), part.budget_ns)


def _object_path(module: Module) -> Path:
    try:
        refuse_unplain(module.object_path)
    except FileNotFoundError:
        raise KmindError(
            f"the agent of module {module.manifest.name} is not compiled: "
            f"there is no {module.object_path}",
            hint="run: make setup",
        ) from None
    with suppress(FileNotFoundError, NotSupportedError):  # no twin, or gone just now
        refuse_unplain(object_of(module.object_path, Shape.ARRAY))
    return module.object_path


def _devices(target: Target) -> list[int]:
    # A disk and its partitions, as the kernel's dev_t.
    if target.kind != "block":
        return []
    files = sorted((target.root / "sys/block" / target.name).glob("*/partition"))
    numbers = [file.with_name("dev").read_text().split(":") for file in files]
    return [target.id, *(int(major) << 20 | int(minor) for major, minor in numbers)]
