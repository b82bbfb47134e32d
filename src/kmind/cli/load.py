# SPDX-License-Identifier: Apache-2.0
"""``kmind load``: have the daemon make an instance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kmind.cli.client import Client, kernel_name
from kmind.cli.output import json_line, write
from kmind.util.words import split_words

__all__ = ["load_command"]


def load_command(
    module: str,
    words: Sequence[str],
    *,
    mode: str | None,
    dry_run: bool,
    json: bool,
    socket: Path | None,
) -> int:
    """Load it, and say how to undo that. ``words``: perhaps a target, then parameters."""
    body: dict[str, Any] = {"module": _absolute(module), "dry_run": dry_run}
    if words and "=" not in words[0]:
        body["target"], words = kernel_name(words[0]), words[1:]
    body["parameters"] = split_words(words)
    if mode:
        body["mode"] = mode
    answer = Client(socket).call("POST", "/v1/instances", body)
    if json:
        write(json_line(answer.pop("schema"), answer) + "\n")
        return 0
    name, result = answer["name"], answer["result"]
    about = f", mode {result['mode']}" if "mode" in result else ""
    if dry_run:
        write(f"would load {name}{about}\n")
    else:
        write(f"loaded {name}{about}; to undo: kmind unload {name}\n")
    return 0


def _absolute(module: str) -> str:
    # A folder is named from here, and looked for by the daemon from elsewhere.
    return str(Path(module).absolute()) if "/" in module else module
