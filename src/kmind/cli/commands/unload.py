# SPDX-License-Identifier: Apache-2.0
"""``kmind unload``: end an instance."""

from __future__ import annotations

from kmind.cli.options import INSTANCE, JSON, SOCKET
from kmind.command import Command, Flag, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.unload import unload_command

    return unload_command(
        words["name"], force=words["force"], json=words["json"], socket=words["socket"]
    )


COMMAND = Command(
    "unload",
    "With the daemon",
    "Unload an instance, and put back its changes.",
    _run,
    arguments=(INSTANCE,),
    options=(
        Flag("force", "end a driver's device though it is in use: its I/O fails"),
        JSON,
        SOCKET,
    ),
    examples=("kmind unload readahead@vda",),
)
