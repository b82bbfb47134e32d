# SPDX-License-Identifier: Apache-2.0
"""What module authors build on: ``Extension``, ``Context``, the manifest, discovery."""

from kmind.extension._base import ChangeEvent, Extension, VerdictEvent
from kmind.extension.context import Context, KnobInfo, Port
from kmind.extension.discovery import Module, find_module, list_modules
from kmind.extension.dispatch import Dispatcher, End
from kmind.extension.manifest import Feature, Hook, Manifest, Parameter, Value, load_manifest
from kmind.extension.parameters import agent_parameters, parse_parameters

__all__ = [
    "ChangeEvent",
    "Context",
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
    "Value",
    "VerdictEvent",
    "agent_parameters",
    "find_module",
    "list_modules",
    "load_manifest",
    "parse_parameters",
]
