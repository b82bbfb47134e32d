# SPDX-License-Identifier: Apache-2.0
"""``kmind status``: all that the daemon knows of its instances, and of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kmind.cli.client import Client, path_to
from kmind.cli.instance_text import brief
from kmind.cli.output import json_line, write

__all__ = ["status_command"]


def status_command(
    name: str | None, *, json: bool, socket: Path | None, verbose: bool = False
) -> int:
    """Show one instance or all, in ten lines each or, with ``verbose``, with every field.

    Returns 1 if one of those shown, or the daemon, is not well.
    """
    client = Client(socket)
    answer = client.get(path_to("instance", name) if name else "/v1/instances")
    health = client.get("/v1/health")
    health.pop("schema")
    instances = answer["instances"]
    if json:
        write(json_line(answer.pop("schema"), {**answer, "daemon": health}) + "\n")
    else:
        lines = [] if name else [_daemon(health), _room(answer["fill"])]
        lines += [] if name or instances else ["No instances are loaded."]
        for row in instances:
            lines += _whole(row) if verbose else brief(row)
        write("\n".join(lines) + "\n")
    well = health["ok"] and not any(row.get("failed") for row in instances)
    return 0 if well else 1


def _whole(row: Mapping[str, Any]) -> list[str]:
    return [row["name"], *_fields(row, skip=("name",), indent="    ")]


def _daemon(health: Mapping[str, Any]) -> str:
    state = "well" if health["ok"] else f"stalled for {health['step_age_s']:.0f} s"
    owner = health["owner"]
    turns = f"turns of up to {owner['max_ms']:.1f} ms (p99 {owner['p99_ms']:.1f} ms)"
    return f"daemon: {state}, pid {health['pid']}, version {health['version']}, {turns}"


def _room(fill: Mapping[str, Mapping[str, int]]) -> str:
    tables = (f"{table['used']} of {table['size']} {name}" for name, table in fill.items())
    return f"room: {', '.join(tables)}"


def _fields(fields: Mapping[str, Any], *, skip: tuple[str, ...] = (), indent: str) -> Iterator[str]:
    for name, value in fields.items():
        if name in skip or value in ("", None, [], {}):
            continue
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _fields(value, indent=indent + "    ")
        elif isinstance(value, list):
            yield f"{indent}{name}:"
            for each in value:
                pairs = each.items() if isinstance(each, dict) else [("", each)]
                shown = ", ".join(f"{key} {item}".strip() for key, item in pairs)
                yield f"{indent}    {shown}"
        else:
            yield f"{indent}{name}: {value}"
