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
        return [_BELOW[key](each) for each in value]
    if isinstance(value, dict):
        return [f"{name}={_word(each)}" for name, each in value.items()]
    return [_word(each) for each in value] if isinstance(value, list) else [str(value)]


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parameter(each: dict[str, Any]) -> str:
    default = "required" if each["default"] is None else f"default {_word(each['default'])}"
    line = f"{each['name']}: {each['help']} ({each['allowed']}; {default})"
    return f"{line}; set to {each['set']} in {each['set_at']}" if each["set_at"] else line


def _hook(each: dict[str, Any]) -> str:
    state = "optional" if each["optional"] else "required"
    costs = f"; without it {each['costs']}" if each["costs"] else ""
    return f"{each['program']} on {each['tracepoint']}, {state}{costs}"


def _feature(each: dict[str, Any]) -> str:
    unit = "" if each["unit"] in ("", "1") else f", in {each['unit']}"
    return f"{each['name']} ({each['kind']}{unit}): {each['help']}"


def _table(each: dict[str, Any]) -> str:
    keys = ", ".join(key["name"] for key in each["key"])
    columns = ", ".join(column["name"] for column in each["column"])
    return f"{each['name']} ({each['rows']} rows by {keys}): {each['help']}; {columns}"


def _record(each: dict[str, Any]) -> str:
    fields = ", ".join(
        f["name"] + ("" if f["unit"] in ("", "1") else f" in {f['unit']}") for f in each["fields"]
    )
    return f"{each['name']} (kind {each['kind']}): {each['help']}" + (
        f" Fields: {fields}" if fields else ""
    )


def _finding(each: dict[str, Any]) -> str:
    return f"{each['name']} ({each['severity']}): {each['help']} Score: {each['score']}"


def _report(each: dict[str, Any]) -> str:
    return f"{each['name']}: {each['help']}"


def _sum(names: list[str]) -> str:
    return f"({' + '.join(names)})" if len(names) > 1 else "".join(names)


def _measure(each: dict[str, Any]) -> str:
    number = _sum(each["numerator"])
    if each["denominator"]:
        number += f" / {_sum(each['denominator'])}"
    if each["floor"]:
        number = f"{each['floor']:g} + {number}"
    unit = "" if each["unit"] in ("", "1") else f" in {each['unit']}"
    limit = f", at most {each['limit']:g} times worse" if "limit" in each else ""
    return f"{each['name']} = {number}{unit}, {each['better']} is better{limit}: {each['help']}"


_NAMES = 16
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
}
