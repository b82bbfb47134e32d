# SPDX-License-Identifier: Apache-2.0
"""``kmind list``: the instances that the daemon runs, a line each."""

from __future__ import annotations

from pathlib import Path

from kmind.cli._columns import columns
from kmind.cli.client import Client
from kmind.cli.output import json_line, write

__all__ = ["list_command"]


def list_command(*, json: bool, socket: Path | None) -> int:
    """List them."""
    answer = Client(socket).get("/v1/instances")
    if json:
        write(json_line(answer.pop("schema"), answer) + "\n")
        return 0
    rows = [
        (each["name"], each.get("class", ""), each["mode"], each.get("state", ""))
        for each in answer["instances"]
    ]
    text = columns(("instance", "class", "mode", "state"), rows) if rows else "nothing is loaded\n"
    write(text)
    return 0
