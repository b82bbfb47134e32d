# SPDX-License-Identifier: Apache-2.0
"""Making the agent that an instance needs, in the running kernel."""

from __future__ import annotations

import os
from collections.abc import Mapping

from kmind.agent.bpf import BpfAgent
from kmind.errors import KmindError, PrivilegeError
from kmind.extension import Module, Value, agent_parameters
from kmind.knobs import Target

__all__ = ["WINDOW_PARAMETER", "make_bpf_agent", "need_root"]

WINDOW_PARAMETER = "window_ms"
"""A module with a parameter of this name lets it set the length of its windows."""

_WINDOW_MS = 100


def make_bpf_agent(
    module: Module, target: Target, params: Mapping[str, Value], *, deadline_s: float
) -> BpfAgent:
    """Load the module's agent for a target; nothing is attached yet.

    Raises PrivilegeError without root, NotSupportedError where the kernel lacks what
    is needed, LoadError where the verifier refuses.
    """
    need_root()
    if not module.object_path.exists():
        raise KmindError(
            f"the agent of module {module.manifest.name} is not compiled: "
            f"there is no {module.object_path}",
            hint="run: make setup",
        )
    hooks = module.manifest.hooks
    return BpfAgent(
        module.object_path,
        devices=_devices(target),
        hooks={hook.program: hook.tracepoint for hook in hooks},
        optional=[hook.program for hook in hooks if hook.optional],
        deferred=[hook.program for hook in hooks if hook.while_],
        parameters=agent_parameters(module.manifest, params),
        window_s=float(params.get(WINDOW_PARAMETER, _WINDOW_MS)) / 1000,
        deadline_s=deadline_s,
    )


def need_root() -> None:
    """Raise PrivilegeError unless this is root."""
    if os.geteuid() != 0:
        raise PrivilegeError(
            "loading an agent into the kernel needs root", hint="run as root: sudo kmind ..."
        )


def _devices(target: Target) -> list[int]:
    # A disk and its partitions, as the kernel's dev_t.
    if target.kind != "block":
        return []
    files = sorted((target.root / "sys/block" / target.name).glob("*/partition"))
    numbers = [file.with_name("dev").read_text().split(":") for file in files]
    return [target.id, *(int(major) << 20 | int(minor) for major, minor in numbers)]
