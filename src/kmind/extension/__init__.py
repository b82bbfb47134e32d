# SPDX-License-Identifier: Apache-2.0
"""What module authors build on: ``Extension``, ``Context``, the manifest, discovery.

An extension's process needs the first two only. What finds and reads modules is imported
when it is asked for, so that such a process starts sooner and stays smaller.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kmind.extension._base import ChangeEvent, Extension, VerdictEvent
from kmind.extension._parameter import Parameter, Value
from kmind.extension.context import Context, KnobInfo, Port
from kmind.extension.dispatch import Dispatcher, End

if TYPE_CHECKING:
    from kmind.extension.discovery import Module, find_module, list_modules
    from kmind.extension.manifest import Feature, Hook, Manifest, RecordKind, load_manifest
    from kmind.extension.parameters import agent_parameters, parse_parameters
    from kmind.extension.training import Column, Dataset, Recipe, Recorded

__all__ = [
    "ChangeEvent",
    "Column",
    "Context",
    "Dataset",
    "Dispatcher",
    "End",
    "Extension",
    "Feature",
    "Hook",
    "KnobInfo",
    "Manifest",
    "Module",
    "Parameter",
    "Port",
    "Recipe",
    "RecordKind",
    "Recorded",
    "Value",
    "VerdictEvent",
    "agent_parameters",
    "find_module",
    "list_modules",
    "load_manifest",
    "parse_parameters",
]

_LATER = {
    "Column": "training",
    "Dataset": "training",
    "Feature": "manifest",
    "Hook": "manifest",
    "Manifest": "manifest",
    "Module": "discovery",
    "Recipe": "training",
    "RecordKind": "manifest",
    "Recorded": "training",
    "agent_parameters": "parameters",
    "find_module": "discovery",
    "list_modules": "discovery",
    "load_manifest": "manifest",
    "parse_parameters": "parameters",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    globals()[name] = value
    return value
