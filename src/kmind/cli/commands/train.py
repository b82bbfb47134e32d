# SPDX-License-Identifier: Apache-2.0
"""``kmind train``: a module's model is made from recordings."""

from __future__ import annotations

from pathlib import Path

from kmind.cli.options import JSON, MODULE
from kmind.command import Argument, Command, Option, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.train import train_command

    return train_command(
        words["module"], words["data"], words["output"], seed=words["seed"], json=words["json"]
    )


COMMAND = Command(
    "train",
    "Recordings and models",
    "Train a module's model on recordings, and compare it with baselines.",
    _run,
    arguments=(
        MODULE,
        Argument("data", "a recording, or a folder of recordings", convert=Path),
    ),
    options=(
        Option("output", "the model file to write", Path, short="-o", required=True),
        Option("seed", "seed of all random numbers", convert=int, default=0, minimum=0),
        JSON,
    ),
    examples=("kmind train readahead recordings -o readahead.kmm",),
)
