# SPDX-License-Identifier: Apache-2.0
"""API for module authors: ``Extension``, ``Context``, the manifest, discovery.

An extension's process needs the first two only. The code that finds and reads modules is imported
on first use, so that such a process starts sooner and stays smaller; so are experiments, for a
module that runs its own (``imports = ["kmind.evidence"]``).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kmind.extension._base import ChangeEvent, Extension, ObjectiveEvent, VerdictEvent
from kmind.extension._parameter import Parameter, Value
from kmind.extension.context import Context
from kmind.extension.dispatch import Dispatcher, End
from kmind.extension.given import Given, Outlets, Port
from kmind.extension.knob_info import KnobInfo

if TYPE_CHECKING:
    from kmind.evidence import Design, Experiment, Guard, Interval, Noise
    from kmind.extension.discovery.discovery import Module, find_module, list_modules
    from kmind.extension.manifest.manifest import Feature, Hook, Manifest, RecordKind, load_manifest
    from kmind.extension.manifest.parameters import agent_parameters, parse_parameters
    from kmind.extension.training import Column, Dataset, Recipe, Recorded, log_of

__all__ = [
    "ChangeEvent",
    "Column",
    "Context",
    "Dataset",
    "Design",
    "Dispatcher",
    "End",
    "Experiment",
    "Extension",
    "Feature",
    "Given",
    "Guard",
    "Hook",
    "Interval",
    "KnobInfo",
    "Manifest",
    "Module",
    "Noise",
    "ObjectiveEvent",
    "Outlets",
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
    "log_of",
    "parse_parameters",
]

_LATER = {
    "Column": "kmind.extension.training",
    "Dataset": "kmind.extension.training",
    "Design": "kmind.evidence",
    "Experiment": "kmind.evidence",
    "Feature": "kmind.extension.manifest.manifest",
    "Guard": "kmind.evidence",
    "Hook": "kmind.extension.manifest.manifest",
    "Interval": "kmind.evidence",
    "Manifest": "kmind.extension.manifest.manifest",
    "Module": "kmind.extension.discovery.discovery",
    "Noise": "kmind.evidence",
    "Recipe": "kmind.extension.training",
    "RecordKind": "kmind.extension.manifest.manifest",
    "Recorded": "kmind.extension.training",
    "agent_parameters": "kmind.extension.manifest.parameters",
    "find_module": "kmind.extension.discovery.discovery",
    "list_modules": "kmind.extension.discovery.discovery",
    "load_manifest": "kmind.extension.manifest.manifest",
    "log_of": "kmind.extension.training",
    "parse_parameters": "kmind.extension.manifest.parameters",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LATER[name]), name)
    globals()[name] = value
    return value
