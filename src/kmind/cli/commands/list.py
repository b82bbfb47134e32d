# SPDX-License-Identifier: Apache-2.0
"""``kmind list``: the daemon's instances, a line each."""

from __future__ import annotations

from kmind.cli.options import JSON, SOCKET
from kmind.command import Command, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.list import list_command

    return list_command(json=words["json"], socket=words["socket"])


COMMAND = Command(
    "list",
    "With the daemon",
    "List the daemon's instances: state, effect and cost.",
    _run,
    options=(
        JSON,
        SOCKET,
    ),
    examples=("kmind list --json",),
)
