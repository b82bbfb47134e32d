# SPDX-License-Identifier: Apache-2.0
"""Try whether this kernel runs kmind's agents, and what each module loses here."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from kmind.agent.core.core import Core
from kmind.errors import KmindError, PrivilegeError
from kmind.extension import Module, list_modules
from kmind.knobs import Target
from kmind.runtime.instance.agent_factory import make_bpf_agent, need_root

__all__ = ["Ability", "Loss", "Replacement", "try_built_in", "try_core", "try_module"]

# It is over at once: neither counts.
_DEADLINE_S = 10.0
_RECORDS = 64


@dataclass(frozen=True)
class Loss:
    """A hook that the agent does without: its program, the ``cause``, and what that ``costs``."""

    hook: str
    cause: str
    costs: str


@dataclass(frozen=True)
class Replacement:
    """A hook whose work another program does: at ``function``, or another ``tracepoint``.

    ``loses`` says what that does not see, or "".
    """

    hook: str
    program: str
    function: str
    tracepoint: str
    loses: str


@dataclass(frozen=True)
class Ability:
    """Result of trying one module, or the core.

    ``state`` is "ok", "partly" (it runs, and ``lost`` says what without), "missing" (this machine
    lacks what it needs) or "refused" (it is there, but not for us). ``cause`` is the reason if it
    does not run, else "". ``replaced`` are hooks that stand elsewhere than on later kernels.
    """

    name: str
    state: Literal["ok", "partly", "missing", "refused"]
    cause: str = ""
    lost: tuple[Loss, ...] = ()
    replaced: tuple[Replacement, ...] = ()


def try_core() -> Ability:
    """Load the core object, which all agents need, pin nothing, and take it out again."""
    try:
        need_root()
        Core.private().close()
    except PrivilegeError as error:
        return Ability("core", "refused", _cause(error))
    except (KmindError, OSError) as error:
        return Ability("core", "missing", _cause(error))
    return Ability("core", "ok")


def try_built_in() -> list[Ability]:
    """Try all modules that come with kmind, by name."""
    return [try_module(module) for module in list_modules()[0] if module.origin == "built-in"]


def try_module(module: Module) -> Ability:
    """Load the module's agent into the kernel, attach nothing, and take it out again.

    The kernel's own verifier decides. Never raises for what it refuses.
    """
    name = module.manifest.name
    try:
        missing, replaced = _hooks_of(module)
    except PrivilegeError as error:
        return Ability(name, "refused", _cause(error))
    except (KmindError, OSError) as error:
        return Ability(name, "missing", _cause(error))
    costs = {hook.program: hook.costs for hook in module.manifest.hooks}
    lost = tuple(Loss(hook, cause, costs[hook]) for hook, cause in missing.items())
    instead = tuple(
        Replacement(hook.program, by.program, by.function, by.tracepoint, by.loses)
        for hook, by in module.manifest.replacements(replaced)
    )
    return Ability(name, "partly" if lost else "ok", "", lost, instead)


def _cause(error: Exception) -> str:
    # Doctor, which shows it, does not send people to doctor.
    return str(error).removesuffix("; see kmind doctor")


def _hooks_of(module: Module) -> tuple[Mapping[str, str], Mapping[str, str]]:
    # Those that are missing, with the cause, and those that are replaced, with the program. With
    # a core: the verifier passes over what an agent without one would not do.
    name = module.manifest.name
    parameters = {p.name: p.default for p in module.manifest.parameters if p.default is not None}
    need_root()
    with closing(Core.private()) as core:
        agent = make_bpf_agent(
            module,
            Target.system(),
            parameters,
            deadline_s=_DEADLINE_S,
            core=core,
            slot=core.register(name, name, module.manifest.class_),
            sq_slots=_RECORDS,
        )
        with closing(agent):
            return agent.hooks.missing(), agent.hooks.replaced()
