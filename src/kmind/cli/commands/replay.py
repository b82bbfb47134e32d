# SPDX-License-Identifier: Apache-2.0
"""``kmind replay``: a recording is fed to a module."""

from __future__ import annotations

from pathlib import Path

from kmind.cli.options import JSON, MODULE, PARAMETERS
from kmind.command import Argument, Command, Option, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.replay import replay_command

    return replay_command(
        words["path"],
        words["module"],
        words["parameters"],
        real_time=words["speed"] == "real",
        seed=words["seed"],
        json=words["json"],
    )


COMMAND = Command(
    "replay",
    "Recordings and models",
    "Feed a recording to a module, and show its recommendations.",
    _run,
    arguments=(
        Argument("path", "a file or folder of kmind record", convert=Path),
        MODULE,
        PARAMETERS,
    ),
    options=(
        Option(
            "speed",
            "real: in the time of the recording; full: as fast as possible",
            default="full",
            choices=("full", "real"),
        ),
        Option("seed", "seed of the module's random numbers", convert=int, default=0, minimum=0),
        JSON,
    ),
    examples=("kmind replay trace readahead patience=0 --json",),
)
