# SPDX-License-Identifier: Apache-2.0
"""``kmind mode``: how far an instance may go."""

from __future__ import annotations

from pathlib import Path

from kmind.cli.client import Client, path_to
from kmind.cli.output import json_line, write

__all__ = ["mode_command"]


def mode_command(name: str, mode: str, *, json: bool, socket: Path | None) -> int:
    """Move it, and say from where, so that it can be moved back."""
    client = Client(socket)
    before = client.get(path_to("instance", name))["instances"][0]["mode"]
    answer = client.call("PUT", path_to("instance", name) + "/mode", {"mode": mode})
    if json:
        answer["result"] |= {"before": before}
        write(json_line(answer.pop("schema"), answer) + "\n")
        return 0
    write(f"{name}: mode {before} -> {mode}; to undo: kmind mode {name} {before}\n")
    return 0
