# SPDX-License-Identifier: Apache-2.0
"""``kmind modules``: what is installed, and what each takes."""

from __future__ import annotations

from typing import Any

from kmind.cli.output import json_line, warn, write
from kmind.extension import list_modules
from kmind.extension.discovery.conf import ModuleConf
from kmind.extension.discovery.describe import describe
from kmind.util.table import table

__all__ = ["SCHEMA", "modules_command"]

SCHEMA = "kmind.modules/1"


def modules_command(*, json: bool) -> int:
    """List all modules; 1 if one of them, or a file of modules.d, is wrong: that costs no other."""
    conf = ModuleConf.load(strict=False)
    good, broken = list_modules()
    records = [describe(module, conf) for module in good]
    known = [*(record["name"] for record in records), *broken]
    if json:
        report = {
            "modules": records,
            "broken": {name: str(error) for name, error in broken.items()},
            "unknown": conf.unknown(known),
            "wrong": list(conf.wrong),
        }
        write(json_line(SCHEMA, report) + "\n")
        return 1 if broken or conf.wrong else 0
    rows = [
        (record["name"], record["class"], record["target"], _about(record)) for record in records
    ]
    write(table(("module", "class", "target", "description"), rows, cut=True))
    for name, error in broken.items():
        write(f"{name}: broken: {error}\n")
    for line in (*conf.unknown(known), *conf.wrong):
        warn(f"kmind: {line}\n")
    for name in conf.passed_over:
        warn(f"kmind: {name} is not read, by its name\n")
    return 1 if broken or conf.wrong else 0


def _about(record: dict[str, Any]) -> str:
    # One line: what is beyond it shows kmind info.
    notes = [] if record["origin"] == "built-in" else [record["origin"]]
    notes += ["hides another"] if record["hides"] else []
    notes += ["blacklisted"] if record["blacklisted"] else []
    return f"[{', '.join(notes)}] {record['description']}" if notes else record["description"]
