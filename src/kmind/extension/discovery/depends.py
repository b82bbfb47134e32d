# SPDX-License-Identifier: Apache-2.0
"""In which order modules are loaded: what one depends on comes before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

from kmind.errors import ModuleError
from kmind.extension.discovery.discovery import Module, find_module

__all__ = ["load_order", "target_of"]


def load_order(
    names: Iterable[str],
    *,
    loaded: Iterable[Module] = (),
    find: Callable[[str], Module] = find_module,
) -> list[Module]:
    """These modules and all that they depend on, each after what it depends on.

    ``loaded`` are modules that run already: what depends on one gets that one, which is
    then in the answer too, and none of the others may be in conflict with them. Raises
    ModuleError for a cycle, which it names, a module that is missing, two that are in
    conflict, and a dependency that has no target.
    """
    running = {module.manifest.name: module for module in loaded}
    modules: dict[str, Module] = {}
    graph: dict[str, tuple[str, ...]] = {}
    waiting: list[tuple[str, Module | None]] = [(name, None) for name in names]
    for asked, by in waiting:  # grows while it is gone through
        module = modules.get(asked) or running.get(asked) or _find(asked, by, find)
        manifest = module.manifest
        if by is not None:
            _check_target(by, module)
        if manifest.name not in modules:
            modules[manifest.name] = module
            graph[manifest.name] = manifest.depends
            waiting += [(name, module) for name in manifest.depends]
    try:
        order = [modules[name] for name in TopologicalSorter(graph).static_order()]
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise ModuleError(
            f"modules depend on each other in a circle: {circle}",
            hint="remove one of them from depends",
        ) from None
    _check_conflicts(modules, running)
    return order


def target_of(module: Module, target: str) -> str:
    """Return the target of a module that an instance on ``target`` depends on."""
    return "system" if module.manifest.target.kind == "system" else target


def _find(name: str, by: Module | None, find: Callable[[str], Module]) -> Module:
    try:
        return find(name)
    except ModuleError as error:
        if by is None:
            raise
        raise ModuleError(f"{by.manifest.name} depends on {name}: {error}") from None


def _check_target(by: Module, module: Module) -> None:
    if (by.manifest.target.kind, module.manifest.target.kind) == ("system", "block"):
        raise ModuleError(
            f"{by.manifest.name} works on the system and depends on {module.manifest.name}, "
            "which needs a block device",
            hint="load that one for a device yourself, and remove it from depends",
        )


def _check_conflicts(modules: Mapping[str, Module], running: Mapping[str, Module]) -> None:
    for name, module in modules.items():
        for other, its in {**running, **modules}.items():
            if other in module.manifest.conflicts or name in its.manifest.conflicts:
                state = f"unload {other} first" if other in running else "load only one of them"
                raise ModuleError(f"{name} and {other} are in conflict", hint=state)
