# SPDX-License-Identifier: Apache-2.0
"""``kmind info``: all about one module, or one field of it."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import wrap
from typing import Any

from kmind.cli.output import json_line, warn, write
from kmind.errors import UsageError
from kmind.extension import find_module
from kmind.extension.discovery.conf import ModuleConf
from kmind.extension.discovery.describe import describe
from kmind.extension.manifest.parameters import nearest
from kmind.util.table import terminal_width

__all__ = ["SCHEMA", "info_command"]

SCHEMA = "kmind.info/1"


def info_command(name: str, *, field: str | None, json: bool) -> int:
    """Describe a module, by name or folder; of one field only the values, a line each."""
    conf = ModuleConf.load(strict=False)
    for line in conf.wrong:
        warn(f"kmind: {line}\n")
    record = describe(find_module(name), conf)
    if field is not None:
        field = field.replace("-", "_")
        if field not in record:
            raise UsageError(f"a module has no field {field!r}", hint=nearest(field, record))
        record = {field: record[field]}
    if json:
        write(json_line(SCHEMA, record) + "\n")
        return 0
    if field is not None:
        write("".join(f"{line}\n" for line in _lines(field, record[field])))
    else:
        write("".join(f"{line}\n" for key in record for line in _part(key, record[key])))
    return 0


def _part(key: str, value: Any) -> list[str]:
    # Short values come beside their names, long ones below.
    if value in (None, "", [], {}):
        return []
    lines = _lines(key, value)
    if key in _BELOW:
        return [f"{key}:", *(part for line in lines for part in _fold(line, "    ", "        "))]
    words = (" " if isinstance(value, dict) else ", ").join(lines)
    return _fold(f"{key + ':':<{_NAMES}}{words}", "", " " * _NAMES)


def _fold(line: str, first: str, later: str) -> list[str]:
    width = terminal_width() or len(line) + len(first)
    return wrap(
        line, max(40, width), initial_indent=first, subsequent_indent=later, break_on_hyphens=False
    )


def _lines(key: str, value: Any) -> list[str]:
    if value is None:
        return []
    if key in _BELOW:
        return [_BELOW[key](row) for row in value]
    if isinstance(value, dict):
        return [f"{name}={_word(word)}" for name, word in value.items()]
    return [_word(word) for word in value] if isinstance(value, list) else [str(value)]


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parameter(parameter: dict[str, Any]) -> str:
    default = (
        "required" if parameter["default"] is None else f"default {_word(parameter['default'])}"
    )
    line = f"{parameter['name']}: {parameter['help']} ({parameter['allowed']}; {default})"
    return (
        f"{line}; set to {parameter['set']} in {parameter['set_at']}"
        if parameter["set_at"]
        else line
    )


def _hook(hook: dict[str, Any]) -> str:
    state = "optional" if hook["optional"] else "required"
    costs = f"; without it {hook['costs']}" if hook["costs"] else ""
    places = [other["function"] or other["tracepoint"] for other in hook["alternatives"]]
    instead = f" (or at {', '.join(places)})" if places else ""
    return f"{hook['program']} on {hook['tracepoint']}{instead}, {state}{costs}"


def _feature(feature: dict[str, Any]) -> str:
    unit = "" if feature["unit"] in ("", "1") else f", in {feature['unit']}"
    return f"{feature['name']} ({feature['kind']}{unit}): {feature['help']}"


def _table(table: dict[str, Any]) -> str:
    keys = ", ".join(key["name"] for key in table["key"])
    columns = ", ".join(column["name"] for column in table["column"])
    return f"{table['name']} ({table['rows']} rows by {keys}): {table['help']}; {columns}"


def _record(record: dict[str, Any]) -> str:
    fields = ", ".join(
        f["name"] + ("" if f["unit"] in ("", "1") else f" in {f['unit']}") for f in record["fields"]
    )
    return f"{record['name']} (kind {record['kind']}): {record['help']}" + (
        f" Fields: {fields}" if fields else ""
    )


def _finding(finding: dict[str, Any]) -> str:
    return f"{finding['name']} ({finding['severity']}): {finding['help']} Score: {finding['score']}"


def _report(report: dict[str, Any]) -> str:
    return f"{report['name']}: {report['help']}"


def _sum(names: list[str]) -> str:
    return f"({' + '.join(names)})" if len(names) > 1 else "".join(names)


def _measure(measure: dict[str, Any]) -> str:
    number = _sum(measure["numerator"])
    if measure["denominator"]:
        number += f" / {_sum(measure['denominator'])}"
    if measure["floor"]:
        number = f"{measure['floor']:g} + {number}"
    unit = "" if measure["unit"] in ("", "1") else f" in {measure['unit']}"
    limit = f", at most {measure['limit']:g} times worse" if "limit" in measure else ""
    what = f"{measure['name']} = {number}{unit}, {measure['better']} is better"
    return f"{what}{limit}: {measure['help']}"


_NAMES = 16


def _driver_knob(knob: dict[str, Any]) -> str:
    unit = f" {knob['unit']}" if knob["unit"] else ""
    bounds = f"{knob['minimum']} to {knob['maximum']}{unit}, default {knob['default']}"
    return f"{knob['name']}: {bounds}: {knob['help']}"


_BELOW: dict[str, Callable[[dict[str, Any]], str]] = {
    "hooks": _hook,
    "features": _feature,
    "tables": _table,
    "outcomes": _measure,
    "guards": _measure,
    "records": _record,
    "findings": _finding,
    "reports": _report,
    "parameters": _parameter,
    "driver_knobs": _driver_knob,
}
