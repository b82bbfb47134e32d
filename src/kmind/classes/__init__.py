# SPDX-License-Identifier: Apache-2.0
"""Classes of modules: each file NAME.py here declares one, as ``CLASS``.

A class says which services its instances get, and with that what its manifest may hold and which
contract tests it has to pass.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path

from kmind.classes._base import (
    DEVICE,
    EXPERIMENTS,
    FINDINGS,
    KNOBS,
    MODELS,
    OBJECTIVE,
    REPORTS,
    SERVICES,
    ModuleClass,
    ServiceKind,
)

__all__ = [
    "DEVICE",
    "EXPERIMENTS",
    "FINDINGS",
    "KNOBS",
    "MODELS",
    "OBJECTIVE",
    "REPORTS",
    "SERVICES",
    "ModuleClass",
    "ServiceKind",
    "class_names",
    "find_class",
    "lacking",
]


@cache
def class_names() -> tuple[str, ...]:
    """Names of all classes, sorted."""
    files = [file for folder in __path__ for file in Path(folder).glob("*.py")]
    return tuple(sorted(file.stem for file in files if not file.stem.startswith("_")))


@cache
def find_class(name: str) -> ModuleClass:
    """The class of that name. Raises ValueError, with the names that there are."""
    if name not in class_names():
        raise ValueError(f"no class is called {name!r}; there are {', '.join(class_names())}")
    class_: ModuleClass = import_module(f"{__name__}.{name}").CLASS
    return class_


@cache
def lacking(name: str) -> dict[str, str]:
    """Each key that a manifest of that class may not hold, with the reason."""
    return {
        part: f"a {name} {service.lacks}; that is for {_holders(service)}"
        for service in SERVICES
        if service not in find_class(name).services
        for part in service.parts
    }


def _holders(service: ServiceKind) -> str:
    names = [name for name in class_names() if service in find_class(name).services]
    return " or ".join(f"a {name}" for name in names)
