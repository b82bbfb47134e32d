# SPDX-License-Identifier: Apache-2.0
"""``kmind reload``: a new agent in place of the old, without a gap, and a fresh extension."""

from __future__ import annotations

from pathlib import Path

from kmind.cli.client import Client, path_to
from kmind.cli.output import json_line, write

__all__ = ["reload_command"]


def reload_command(name: str, *, json: bool, socket: Path | None) -> int:
    """Reload it, and say which generation runs now."""
    answer = Client(socket).call("POST", path_to("instance", name) + "/reload")
    if json:
        write(json_line(answer.pop("schema"), answer) + "\n")
        return 0
    generation = answer["result"].get("generation")
    about = f": generation {generation} runs" if generation else ""
    write(f"reloaded {name}{about}; no knob was touched\n")
    return 0
