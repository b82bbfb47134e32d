# SPDX-License-Identifier: Apache-2.0
"""A module in plain records: for ``kmind info`` and ``modules``, and for the daemon's API."""

from __future__ import annotations

from typing import Any

import msgspec

from kmind.extension.discovery.conf import ModuleConf
from kmind.extension.discovery.discovery import Module
from kmind.extension.manifest.outcome import MeasurePart

__all__ = ["describe"]


def describe(module: Module, conf: ModuleConf) -> dict[str, Any]:
    """Return the manifest, its location, and the additions of ``conf``, as plain JSON.

    ``aliases`` are the manifest's and then the administrator's. A parameter's ``allowed`` is in
    words, and ``set`` is its value by an ``options`` line at ``set_at``. ``mode`` is None if no
    line sets it, ``blacklisted`` if no line bars the module.
    """
    manifest = module.manifest
    driver = msgspec.to_builtins(manifest.driver) or {}
    name = manifest.name
    set_here = {setting.name: setting for setting in conf.options(name)}
    return {
        "name": name,
        "version": manifest.version,
        "class": manifest.class_,
        "description": manifest.description,
        "author": manifest.author,
        "licence": manifest.licence,
        "origin": module.origin,
        "folder": str(module.folder),
        "hides": list(module.hides),
        "target": manifest.target.kind,
        "aliases": [
            *manifest.aliases,
            *(str(line.pattern) for line in conf.aliases if line.module == name),
        ],
        "depends": list(manifest.depends),
        "conflicts": list(manifest.conflicts),
        "blacklisted": conf.blacklisted(name),
        "mode": conf.mode(name),
        "knobs": [use.name for use in manifest.knobs],
        "priorities": {use.name: use.priority for use in manifest.knobs},
        "hooks": [
            {
                "program": hook.program,
                "tracepoint": hook.tracepoint,
                "optional": hook.optional,
                "costs": hook.costs,
                "alternatives": msgspec.to_builtins(hook.alternatives),
            }
            for hook in manifest.hooks
        ],
        "features": [
            {
                "name": feature.name,
                "unit": feature.unit,
                "kind": feature.kind,
                "help": feature.help,
            }
            for feature in manifest.features
        ],
        "tables": msgspec.to_builtins(manifest.tables),
        "outcomes": [_measure(outcome) for outcome in manifest.outcomes],
        "guards": [_measure(guard) | {"limit": guard.limit} for guard in manifest.guards],
        "evidence": msgspec.to_builtins(manifest.evidence),
        "chosen_by": manifest.chosen_by,
        "objective": msgspec.to_builtins(manifest.objective),
        "records": [
            {
                "kind": record.kind,
                "name": record.name,
                "help": record.help,
                "fields": [
                    {"name": field.name, "unit": field.unit, "help": field.help}
                    for field in record.fields
                ],
            }
            for record in manifest.records
        ],
        "findings": msgspec.to_builtins(manifest.findings),
        "reports": msgspec.to_builtins(manifest.reports),
        "driver": {name: value for name, value in driver.items() if name != "knob"},
        "driver_knobs": driver.get("knob", []),
        "limits": {
            "cpu_percent": manifest.limits.cpu_percent,
            "memory_mib": manifest.limits.memory_mib,
            "pids": manifest.limits.pids,
        },
        "sandbox": {
            "files": list(manifest.sandbox.files),
            "network": manifest.sandbox.network,
        },
        "imports": list(manifest.extension.imports),
        "parameters": [
            {
                "name": parameter.name,
                "type": parameter.type,
                "unit": parameter.unit,
                "default": parameter.default,
                "allowed": parameter.allowed,
                "help": parameter.help,
                "set": set_here[parameter.name].text if parameter.name in set_here else None,
                "set_at": set_here[parameter.name].at if parameter.name in set_here else None,
            }
            for parameter in manifest.parameters
        ],
    }


def _measure(part: MeasurePart) -> dict[str, Any]:
    return {
        "name": part.name,
        "unit": part.unit,
        "better": part.better,
        "numerator": list(part.numerator),
        "denominator": list(part.denominator),
        "floor": part.floor,
        "help": part.help,
    }
