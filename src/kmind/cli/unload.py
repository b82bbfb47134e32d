# SPDX-License-Identifier: Apache-2.0
"""``kmind unload``: have the daemon end an instance and put back what it changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmind.cli.client import Client, path_to
from kmind.cli.output import json_line, write

__all__ = ["unload_command"]


def unload_command(name: str, *, force: bool, json: bool, socket: Path | None) -> int:
    """Unload it, and say what was changed and what holds now; 1 if that is not restored."""
    query = {"force": "true"} if force else {}
    answer = Client(socket).call("DELETE", path_to("instance", name), query=query)
    result = answer["result"]
    if json:
        write(json_line(answer.pop("schema"), answer) + "\n")
    else:
        changes = result.get("changes", [])
        lines = [f"unloaded {name}" + ("" if changes else "; nothing was changed")]
        lines += [f"  {_change(change)}" for change in changes]
        write("\n".join(lines) + "\n")
    return 0 if result.get("restored", True) else 1


def _change(change: Mapping[str, Any]) -> str:
    values = [change["baseline"], *change["values"]]
    steps = " -> ".join(str(value) for value in values[:6]) + (" ..." if values[6:] else "")
    if change["gone"]:
        holds = f"gone with {change['target']}"
    elif change["now"] == change["baseline"]:
        holds = f"holds {change['now']} again"
    elif change["yielded"]:
        holds = f"holds {change['now']}, set by somebody else"
    else:
        holds = f"holds {change['now']} still; to put it back: kmind restore"
    return f"{change['knob']} was {steps}, {holds}"
