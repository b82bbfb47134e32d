# SPDX-License-Identifier: Apache-2.0
"""``kmind load``: have the daemon make an instance."""

from __future__ import annotations

from kmind.abi.enums import MODES
from kmind.cli.options import DRY_RUN, JSON, MODE_HELP, MODULE, SOCKET, WORDS
from kmind.command import Command, Option, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.load import load_command

    return load_command(
        words["module"],
        words["words"],
        mode=words["mode"],
        dry_run=words["dry_run"],
        json=words["json"],
        socket=words["socket"],
    )


COMMAND = Command(
    "load",
    "With the daemon",
    "Load a module into the daemon as an instance on a target.",
    _run,
    arguments=(MODULE, WORDS),
    options=(
        Option("mode", f"{MODE_HELP} (default: advise)", choices=MODES),
        DRY_RUN,
        JSON,
        SOCKET,
    ),
    examples=("kmind load readahead vda patience=5 --mode auto",),
)
