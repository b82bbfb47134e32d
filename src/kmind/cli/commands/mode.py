# SPDX-License-Identifier: Apache-2.0
"""``kmind mode``: how far an instance may go."""

from __future__ import annotations

from kmind.abi.enums import MODES
from kmind.cli.options import INSTANCE, JSON, MODE_HELP, SOCKET
from kmind.command import Argument, Command, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.mode import mode_command

    return mode_command(words["name"], words["mode"], json=words["json"], socket=words["socket"])


COMMAND = Command(
    "mode",
    "With the daemon",
    "Set the mode of an instance: its freedom to act.",
    _run,
    arguments=(
        INSTANCE,
        Argument("mode", f"{MODE_HELP}; emergency: put all back", choices=(*MODES, "emergency")),
    ),
    options=(
        JSON,
        SOCKET,
    ),
    examples=("kmind mode readahead@vda observe",),
)
