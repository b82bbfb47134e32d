# SPDX-License-Identifier: Apache-2.0
"""``kmind list``: the instances that the daemon runs, a line each."""

from __future__ import annotations

from pathlib import Path

from kmind.cli.client import Client
from kmind.cli.instance_text import changed, cost, doing
from kmind.cli.output import json_line, write
from kmind.util.table import table

__all__ = ["list_command"]

_HEAD = ("instance", "mode", "state", "changed", "cost", "doing")


def list_command(*, json: bool, socket: Path | None) -> int:
    """List them."""
    answer = Client(socket).get("/v1/instances")
    if json:
        write(json_line(answer.pop("schema"), answer) + "\n")
        return 0
    rows = [
        (
            *(row["name"], row["mode"], row.get("state", "-")),
            *(changed(row), cost(row), doing(row)),
        )
        for row in answer["instances"]
    ]
    write(table(_HEAD, rows) if rows else "No instances are loaded.\n")
    return 0
