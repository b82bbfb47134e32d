# SPDX-License-Identifier: Apache-2.0
"""``kmind depends``: what has to be loaded before a module, and in which order."""

from __future__ import annotations

from typing import Any

from kmind.cli.output import json_line, write
from kmind.errors import ModuleError
from kmind.extension import find_module, list_modules
from kmind.extension.discovery.depends import load_order

__all__ = ["SCHEMA", "depends_command"]

SCHEMA = "kmind.depends/1"


def depends_command(name: str | None, *, json: bool) -> int:
    """Of one module, or of all; 1 if one of all cannot be loaded, which costs no other."""
    records, broken = _all() if name is None else ([_record(name)], {})
    if json:
        report = {"modules": records, "broken": broken}
        write(json_line(SCHEMA, report) + "\n")
    elif name is not None:
        # As modprobe --show-depends: one line a module, the one to load first on top.
        for each in records[0]["order"]:
            write(f"{each['name']} {each['folder']}\n")
    else:
        for record in records:
            write(f"{record['name']}: {' '.join(record['depends'])}".rstrip() + "\n")
        for module, why in broken.items():
            write(f"{module}: broken: {why}\n")
    return 1 if broken else 0


def _record(name: str) -> dict[str, Any]:
    module = find_module(name)
    return {
        "name": module.manifest.name,
        "depends": list(module.manifest.depends),
        "conflicts": list(module.manifest.conflicts),
        "order": [
            {"name": module.manifest.name, "folder": str(module.folder)}
            for module in load_order([name])
        ],
    }


def _all() -> tuple[list[dict[str, Any]], dict[str, str]]:
    good, unread = list_modules()
    broken = {name: str(error) for name, error in unread.items()}
    records = []
    for module in good:
        name = module.manifest.name
        try:
            records.append(_record(name))
        except ModuleError as error:
            broken[name] = str(error)
    return records, broken
