# SPDX-License-Identifier: Apache-2.0
"""``kmind modules``: what is installed, and what each takes."""

from __future__ import annotations

import sys
from typing import Any

from kmind.cli.output import json_line
from kmind.extension import Module, list_modules

__all__ = ["SCHEMA", "modules_command"]

SCHEMA = "kmind.modules/1"


def modules_command(*, json: bool) -> int:
    """List all modules; 1 if one of them is broken, which costs no other."""
    good, broken = list_modules()
    if json:
        report = {
            "modules": [_record(module) for module in good],
            "broken": {name: str(error) for name, error in broken.items()},
        }
        sys.stdout.write(json_line(SCHEMA, report) + "\n")
        return 1 if broken else 0
    for module in good:
        sys.stdout.write(_text(module))
    for name, error in broken.items():
        sys.stdout.write(f"{name}: broken: {error}\n")
    return 1 if broken else 0


def _record(module: Module) -> dict[str, Any]:
    manifest = module.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "class": manifest.class_,
        "description": manifest.description,
        "origin": module.origin,
        "target": manifest.target.kind,
        "knobs": [knob.name for knob in manifest.knobs],
        "parameters": [
            {
                "name": parameter.name,
                "type": parameter.type,
                "unit": parameter.unit,
                "default": parameter.default,
                "allowed": parameter.allowed,
                "help": parameter.help,
            }
            for parameter in manifest.parameters
        ],
    }


def _text(module: Module) -> str:
    manifest = module.manifest
    lines = [
        f"{manifest.name} {manifest.version} ({manifest.class_}, {module.origin})",
        f"    {manifest.description}",
        f"    target: {manifest.target.kind}; knobs: "
        + (", ".join(knob.name for knob in manifest.knobs) or "none"),
    ]
    for parameter in manifest.parameters:
        default = "required" if parameter.default is None else f"default {parameter.default}"
        lines.append(
            f"    {parameter.name}=  {parameter.help} It is {parameter.allowed}; {default}."
        )
    return "\n".join(lines) + "\n"
