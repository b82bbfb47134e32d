# SPDX-License-Identifier: Apache-2.0
"""``kmind modules``: what is installed, and what each takes."""

from __future__ import annotations

from typing import Any

from kmind.cli.output import json_line, warn, write
from kmind.extension import list_modules
from kmind.extension.conf import ModuleConf
from kmind.extension.describe import describe

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
    for record in records:
        write(_text(record))
    for name, error in broken.items():
        write(f"{name}: broken: {error}\n")
    for line in (*conf.unknown(known), *conf.wrong):
        warn(f"kmind: {line}\n")
    for name in conf.passed_over:
        warn(f"kmind: {name} is not read, by its name\n")
    return 1 if broken or conf.wrong else 0


def _text(record: dict[str, Any]) -> str:
    lines = [
        f"{record['name']} {record['version']} ({record['class']}, {record['origin']})",
        f"    {record['description']}",
        f"    target: {record['target']}; knobs: {', '.join(record['knobs']) or 'none'}",
    ]
    for key, words in (("aliases", "for"), ("depends", "depends on"), ("conflicts", "not beside")):
        if record[key]:
            lines.append(f"    {words}: {', '.join(record[key])}")
    lines += [f"    hides {place}" for place in record["hides"]]
    if record["blacklisted"]:
        lines.append(f"    blacklisted in {record['blacklisted']}: loaded only by name")
    for each in record["parameters"]:
        default = "required" if each["default"] is None else f"default {each['default']}"
        if each["set_at"]:
            default += f", set to {each['set']} in {each['set_at']}"
        lines.append(f"    {each['name']}=  {each['help']} It is {each['allowed']}; {default}.")
    return "\n".join(lines) + "\n"
